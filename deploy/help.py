"""The text of ./deploy.sh --help."""

from __future__ import annotations

from clip_embeddings.functions import FUNCTIONS
from deploy.bigquery import DEFAULT as BIGQUERY_FUNCTIONS
from deploy.options import OPTIONS, PUBLIC, SWITCHES
from model_cache.baking.catalogue import DEFAULT_MODEL

USAGE = """\
Usage: ./deploy.sh [options] COMMAND [FUNCTION...]

  stage FUNCTION...          assemble build/FUNCTION/, what that function is deployed from
  deploy FUNCTION...|all     stage, then deploy to Cloud Run; "all" is every function but {excluded}
  jobs deploy [JOB...]       stage and deploy Cloud Run jobs ({jobs}); without a name, {jobs_in_all}
  jobs run JOB [-- ARG...]   run one and wait for its end
  bigquery [FUNCTION...]     let BigQuery call deployed functions ({bigquery}), and print queries
  spark stage                assemble build/spark/, what a Spark job runs from
  spark run -- ARG...        run pipelines/embed_spark.py on Dataproc Serverless and wait for its end
  status                     what is deployed, and where
  logs FUNCTION              its newest log lines
  delete FUNCTION...|all     remove functions and their triggers; asks first

Functions: {functions}; job: {jobs}

Options, each with the environment variable that sets it too:
{options}

Examples:
  ./deploy.sh --dry-run deploy all
  ./deploy.sh --model demo --project my-project deploy embed_text
  ./deploy.sh --model {model} --photos-bucket my-photos deploy search on_upload on_delete
  ./deploy.sh --photos-bucket my-photos --tasks 4 jobs deploy && {example}
  ./deploy.sh spark run -- --input gs://my-photos --output gs://my-vectors/photos
"""


def help_text() -> str:
    """The help, with every function and option of their tables."""
    return USAGE.format(
        functions=" ".join(function.name for function in FUNCTIONS if not function.is_job),
        jobs=" ".join(function.name for function in FUNCTIONS if function.is_job),
        jobs_in_all=" ".join(
            function.name for function in FUNCTIONS if function.is_job and function.included_in_all
        ),
        excluded=" and ".join(function.name for function in FUNCTIONS if not function.included_in_all),
        options="\n".join(_option_lines()),
        bigquery=" and ".join(BIGQUERY_FUNCTIONS),
        model=DEFAULT_MODEL,
        example="./deploy.sh jobs run backfill -- --prefix 2024/",
    )


def _option_lines() -> list[str]:
    *options, build_dir = (
        _columns(f"{option.name} {option.value}", option.variable, option.help.format(option.default))
        for option in OPTIONS
    )
    return [
        *options,
        _columns("--env NAME=VALUE", "", "any other setting of the functions; may be repeated"),
        _columns(PUBLIC, "ALLOW_UNAUTHENTICATED=true", "let everybody call the HTTP functions"),
        build_dir,
        *(_columns(switch, "", text) for switch, text in SWITCHES.items()),
    ]


def _columns(option: str, variable: str, text: str) -> str:
    # The longest options have wider columns of their own.
    first, second = (31, 23) if len(option) > 24 else (24, 15)
    return f"  {option:<{first}}  {variable:<{second}}  {text}"
