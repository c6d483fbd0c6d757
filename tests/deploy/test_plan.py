"""What --dry-run prints: complete, ordered, pasteable, accepted by gcloud's own parser, touching nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deploy_script import (
    NAMES,
    deploy_sh,
    flag,
    needs_gcloud,
    paste,
    recorded,
)
from tests.support.gcloud_parser import refused_calls
from tests.support.serving import ROOT

HTTP = ("embed-text", "embed-image", "embed-mixed", "jobs", "search")
EVENTS = {
    "run-job": ("finalized", "my-project-clip-jobs"),
    "on-upload": ("finalized", "my-project-clip-photos"),
    "on-delete": ("deleted", "my-project-clip-photos"),
}
EVERY_OPTION = (
    "--model=demo",
    "--models=one-more,ViT-L-14/openai",
    "--project=other-project",
    "--region=europe-west1",
    "--memory=2Gi",
    "--cpu=2",
    "--concurrency=4",
    "--min-instances=1",
    "--max-instances=3",
    "--timeout=30",
    "--tasks=5",
    "--base-image=python312",
    "--jobs-bucket=the-jobs",
    "--photos-bucket=the-photos",
    "--spark-bucket=the-spark",
    "--collection=holidays",
    "--index=postgresql://photos@/photos?host=/cloudsql/other-project:europe-west1:db&table=holidays",
    "--index-password-secret=the-password",
    "--allowed-buckets=one-bucket,two-bucket",
    "--service-account=runs@other-project.iam.gserviceaccount.com",
    "--trigger-service-account=tells@other-project.iam.gserviceaccount.com",
    "--build-service-account=builds@other-project.iam.gserviceaccount.com",
    "--api-key-secret=the-key",
    "--env=MAX_ITEMS=7",
    "--env=ALLOWED_ORIGINS=https://a.example,https://b.example",
    "--allow-unauthenticated",
    "--build-dir=out",
    "--force",
)
# Commands whose plans hold every gcloud command of deploy.sh.
COMMANDS = (
    ("deploy", "all", "gateway"),
    ("jobs", "deploy"),
    ("jobs", "run", "backfill", "--", "--prefix", "a, b|c"),
    ("jobs", "run", "backfill", "--", "--plan"),
    ("spark", "run", "--", "--input", "a, b|c", "--output", "gs://vectors/d"),
    ("status",),
    ("logs", "embed_text"),
    ("logs", "backfill"),
    ("delete", "all", "gateway", "backfill"),
)
NASTY = 'it\'s $(touch pwned) `touch pwned`; touch pwned # "x" \\ *, | ~ ^ && touch pwned'


def plan(folder: Path, *arguments: str) -> list[list[str]]:
    """The commands of a plan, as gcloud gets them once it is pasted."""
    printed = deploy_sh("--dry-run", *arguments, folder=folder)
    assert printed.returncode == 0, printed.stderr
    return paste(printed.stdout, folder)


def test_a_machine_with_no_login_gets_the_whole_plan_in_order(tmp_path: Path) -> None:
    calls = plan(tmp_path, "deploy", "all")

    deployed = [call[2] for call in calls if call[:2] == ["run", "deploy"]]
    assert set(deployed) == {*HTTP, *EVENTS}
    first = calls.index(next(call for call in calls if call[:2] == ["run", "deploy"]))
    before = [" ".join(call[:3]) for call in calls[:first]]
    for needed in ("services enable run.googleapis.com", "iam service-accounts create"):
        assert needed in before
    assert [call[1] for call in calls if call[0].startswith("--model=")] == ["stage"]
    roles = {flag(call, "role") for call in calls if "add-iam-policy-binding" in call}
    assert roles == {
        "roles/run.builder",
        "roles/run.invoker",
        "roles/eventarc.eventReceiver",
        "roles/pubsub.publisher",
        "roles/storage.objectUser",
        "roles/storage.objectViewer",
        "roles/datastore.user",
    }
    for name, (event, bucket) in EVENTS.items():
        (made,) = [call for call in calls if call[:4] == ["eventarc", "triggers", "create", name]]
        # Where the bucket is, looked up.
        assert flag(made, "location") == "europe-west4"
        assert f"--event-filters=type=google.cloud.storage.object.v1.{event}" in made
        assert f"--event-filters=bucket={bucket}" in made
        invoker = [call for call in calls if call[:4] == ["run", "services", "add-iam-policy-binding", name]]
        assert deployed_at(calls, name) < calls.index(invoker[0]) < calls.index(made)


def deployed_at(calls: list[list[str]], service: str) -> int:
    return calls.index(next(call for call in calls if call[:3] == ["run", "deploy", service]))


def test_defaults_are_private_and_cheap(tmp_path: Path) -> None:
    calls = plan(tmp_path, "deploy", "all")

    for call in (call for call in calls if call[:2] == ["run", "deploy"]):
        assert "--no-allow-unauthenticated" in call
        assert {"--cpu-boost", "--execution-environment=gen2", "--min-instances=0", "--cpu=1"} <= {*call}
        assert flag(call, "memory") == ("512Mi" if call[2] in ("embed-text", "on-delete") else "1Gi")
        assert flag(call, "base-image") == "python313"
        # The platform's default, also where an earlier version set another.
        assert [word for word in call if "probe" in word] == ["--startup-probe="] * (call[2] in HTTP)
    variables = {call[2]: flag(call, "set-env-vars") for call in calls if call[:2] == ["run", "deploy"]}
    assert variables["embed-text"] == "MODEL=vit-b-32-laion400m-e32,MEMORY_LIMIT=512Mi"
    assert variables["run-job"].endswith(",JOBS_URL=gs://my-project-clip-jobs/jobs")
    assert variables["search"].endswith(
        ",BUCKET_URL=gs://my-project-clip-photos,INDEX_URL=firestore://my-project/photos"
    )


def test_tasks_of_a_job_share_a_plan_in_the_bucket_of_jobs(tmp_path: Path) -> None:
    def plan_apart(*arguments: str) -> list[list[str]]:
        folder = tmp_path / str(len(arguments))
        folder.mkdir()
        return plan(folder, *arguments)

    def deployed(*options: str) -> tuple[list[list[str]], list[str]]:
        calls = plan_apart(*options, "jobs", "deploy")
        (job,) = [call for call in calls if call[:3] == ["run", "jobs", "deploy"]]
        return calls, flag(job, "set-env-vars").split(",")

    alone, variables = deployed()
    assert not any("clip-jobs" in word for call in alone for word in call)
    calls, variables = deployed("--tasks=4")
    assert "PLAN_URL=gs://my-project-clip-jobs/plans" in variables
    assert not any(variable.startswith("JOBS_URL") for variable in variables)
    (grant,) = [call for call in calls if "--role=roles/storage.objectUser" in call]
    assert grant[:4] == ["storage", "buckets", "add-iam-policy-binding", "gs://my-project-clip-jobs"]
    # The rule that deletes jobs concerns no plans.
    assert not any(word.startswith("--lifecycle-file") for call in calls for word in call)

    (counting,) = plan_apart(
        "--project=other-project", "--tasks=4", "jobs", "run", "backfill", "--", "--plan"
    )
    assert counting[:4] == ["run", "jobs", "execute", "backfill"]
    assert {"--tasks=1", "--args=--plan", "--wait"} <= {*counting}


@pytest.mark.parametrize("option", ["--allow-unauthenticated", "--api-key-secret=key", "--force"])
def test_an_http_function_is_checked_before_its_traffic_moves(option: str, tmp_path: Path) -> None:
    calls = plan(tmp_path, option, "deploy", "embed_text", "run_job")

    (checked, event) = [call for call in calls if call[:2] == ["run", "deploy"]]
    # The recorder knows no earlier revision, to which the traffic could be left.
    assert "--tag=candidate" in checked
    assert "--no-traffic" not in checked
    assert not {"--tag=candidate", "--no-traffic"} & {*event}
    (move,) = [call for call in calls if call[:3] == ["run", "services", "update-traffic"]]
    assert {"embed-text", "--to-latest", "--remove-tags=candidate"} <= {*move}
    asked = (tmp_path / "record.curl").read_text().splitlines()
    assert len(asked) == 2
    assert asked[0].endswith(" https://candidate---function.example/ready")
    assert asked[1] == "Authorization: Bearer identity"


def test_a_pasted_plan_moves_no_traffic_to_what_is_not_ready(tmp_path: Path) -> None:
    printed = deploy_sh("--dry-run", "deploy", "embed_text", folder=tmp_path).stdout
    (tmp_path / "record.not-ready").touch()

    with pytest.raises(AssertionError):
        paste(printed, tmp_path)

    assert not [call for call in recorded(tmp_path) if "update-traffic" in call]


def test_a_later_deployment_leaves_the_traffic_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "record.revision").write_text("embed-text-00001")

    calls = plan(tmp_path, "deploy", "embed_text")

    (deployed,) = [call for call in calls if call[:2] == ["run", "deploy"]]
    assert "--no-traffic" in deployed


def test_removed_photos_are_forgotten(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--collection", "holidays", "deploy", "search")

    (forget,) = [call for call in calls if call[:4] == ["firestore", "fields", "ttls", "update"]]
    assert {"expires", "--collection-group=holidays", "--enable-ttl"} <= {*forget}


def test_a_model_that_is_not_baked_has_the_catalogues_dimensions(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--model=clip-vit-large-patch14", "deploy", "search")

    indexes = [call for call in calls if call[:4] == ["firestore", "indexes", "composite", "create"]]
    assert len(indexes) == 2
    for index in indexes:
        assert '"dimension":"768"' in " ".join(index)


def test_event_functions_are_never_public(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--allow-unauthenticated", "deploy", "all")

    public = {
        call[2] for call in calls if call[:2] == ["run", "deploy"] and "--allow-unauthenticated" in call
    }
    assert public == {*HTTP}


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    def state() -> set[Path]:
        below = (
            path for name in ("deploy", "functions", "clip_embeddings") for path in (ROOT / name).rglob("*")
        )
        return {*ROOT.iterdir(), *(ROOT / "build").glob("*"), *below}

    before = state()
    for command in COMMANDS:
        assert deploy_sh("--dry-run", *command, folder=tmp_path).returncode == 0

    assert state() == before
    assert {path.name for path in tmp_path.iterdir()} == {"tools"}


@needs_gcloud
def test_gcloud_takes_every_command_of_every_plan(tmp_path: Path) -> None:
    (tmp_path / "record.revision").write_text("a-revision")
    calls = {
        tuple(call)
        for options in ((), EVERY_OPTION)
        for command in COMMANDS
        for call in plan(tmp_path, *options, *command)
        if not call[0].startswith("--model=")
    }
    assert len(calls) > 60

    assert refused_calls(sorted(calls), tmp_path) == []


def test_values_reach_gcloud_as_they_were_given(tmp_path: Path) -> None:
    calls = plan(tmp_path, f"--env=GREETING={NASTY}", "deploy", "embed_text")

    (deployed,) = [call for call in calls if call[:2] == ["run", "deploy"]]
    assert flag(deployed, "set-env-vars") == (
        f"^:::^MODEL=vit-b-32-laion400m-e32:::MEMORY_LIMIT=512Mi:::GREETING={NASTY}"
    )
    assert not list(tmp_path.rglob("pwned"))


def test_a_model_s_name_stays_one_word(tmp_path: Path) -> None:
    calls = plan(tmp_path, f"--model={NASTY}", "deploy", "embed_text")

    assert [call for call in calls if "stage" in call] == [[f"--model={NASTY}", "stage", "embed_text"]]
    assert not list(tmp_path.rglob("pwned"))


def test_several_models_go_where_requests_choose_one(tmp_path: Path) -> None:
    models = ("--model=demo", "--models=ViT-L-14/openai,another")
    chosen = "--env=PROTOCOL_MODELS=encoder=another,photo-app=demo"

    calls = plan(tmp_path, *models, chosen, "deploy", "all", "gateway")

    (staged,) = [call for call in calls if "stage" in call]
    assert staged[:3] == [*models, "stage"]
    deployed = {call[2]: call for call in calls if call[:2] == ["run", "deploy"]}
    settings = {name: flag(call, "set-env-vars").split("|") for name, call in deployed.items()}
    everywhere = ["^", "^MODEL=demo", "MODELS=vit-l-14-openai,another", chosen.removeprefix("--env=")]
    for name in ("embed-text", "gateway"):
        memory = f"MEMORY_LIMIT={flag(deployed[name], 'memory')}"
        assert [value for value in settings[name] if value != memory][:4] == everywhere
        assert memory in settings[name]
    # The index holds the vectors of one.
    for name in ("search", "on-upload", "on-delete"):
        assert "MODEL=demo" in flag(deployed[name], "set-env-vars")
        assert "MODELS" not in flag(deployed[name], "set-env-vars")


OPTIONS = [option.partition("=")[0] for option in EVERY_OPTION if "=" in option and "--env" not in option]


@pytest.mark.parametrize(
    "value",
    [
        "$(touch pwned)",
        "-rf",
        *(
            pytest.param(value, marks=pytest.mark.full)
            for value in ("a b", "x';touch pwned;'", "--yes", "a\nb", "a\x01PATH\x01")
        ),
    ],
)
def test_odd_values_are_refused(value: str, tmp_path: Path) -> None:
    for option in OPTIONS:
        if (
            option in ("--model", "--models", "--build-dir")
            and not value.startswith("-")
            and value.isprintable()
        ):
            continue
        ended = deploy_sh("--dry-run", option, value, "deploy", "embed_text", folder=tmp_path)

        assert ended.returncode == 1, option
        assert "is not valid" in ended.stderr
        assert ended.stdout == ""
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("deploy",), "name a function"),
        (("deploy", "embed_txt"), "there is no function embed_txt"),
        (("deploy", "$(touch pwned)"), "there is no function"),
        (("deploy", "--", "-rf"), "there is no function -rf"),
        (("explode",), "there is no command explode"),
        (("--modle", "x", "deploy", "all"), "there is no option --modle"),
        (("--modle",), "there is no option --modle"),
        (("--ENV=A=1",), "there is no option --ENV"),
        (("-x",), "there is no option -x"),
        (("deploy", "--model"), "--model needs a value"),
        (("--model=", "deploy"), "--model is empty"),
        (("--models=one,,two", "deploy", "all"), "separated by commas"),
        (("--env", "MODELS=one,two", "deploy", "all"), "use the option for MODELS"),
        (("--env", "lower=1", "deploy", "all"), "use NAME=VALUE"),
        (("--env", "API_KEY=hunter2hunter2hunter2", "deploy", "all"), "Secret Manager"),
        (("--env", "MAX_ITEMS=abc", "deploy", "all"), "--env MAX_ITEMS='abc' is not valid"),
        (("--env", "MAX_ITEM=3", "deploy", "all"), "MAX_ITEM is not a setting; did you mean MAX_ITEMS?"),
        (("--env=JOBS_TLT=3", "deploy", "all"), "JOBS_TLT is not a setting; did you mean JOBS_TTL?"),
        (("--env=PORT=80", "deploy", "all"), "--env PORT is not possible: the platform sets PORT itself."),
        (("--env=K_SERVICE=x", "deploy", "all"), "the platform sets K_SERVICE itself"),
        (("--env=CLOUD_RUN_TASK_COUNT=2", "jobs", "deploy"), "the platform sets CLOUD_RUN_TASK_COUNT itself"),
        (("--env", "JOBS_TTL=never", "deploy", "all"), "--env JOBS_TTL='never' is not valid"),
        (("deploy", "two\nlines"), "there is no function 'two\\nlines'"),
        (("jobs", "run", "embed_text"), "is no Cloud Run job"),
        (("--index=postgresql://u:hunter2@h/d?table=t", "deploy", "search"), "--index-password-secret"),
        (("--env=INDEX_URL=postgresql://u:hunter2@h/d?table=t", "deploy", "search"), "Secret Manager"),
        (
            ("--index=postgresql://u:hunter2@h/d?table=T", "deploy", "search"),
            "use a table's name that matches",
        ),
        (
            ("--index=postgresql://u:a hunter2@h/d", "deploy", "search"),
            "the URL of an index, or the name of a",
        ),
        (("--index=mysql://u@h/d", "deploy", "search"), "is not valid: use sqlite:///folder/file or "),
        (
            ("--index=a", "--env=INDEX_URL=sqlite:///x", "deploy", "all"),
            "use --index or --env INDEX_URL, not",
        ),
        (("jobs",), "use jobs deploy or jobs run"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    ended = deploy_sh("--dry-run", *arguments, folder=tmp_path)

    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "hunter2" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_options_can_come_from_the_environment(tmp_path: Path) -> None:
    ended = deploy_sh(
        "--dry-run",
        "--memory=4Gi",
        "deploy",
        "embed_text",
        folder=tmp_path,
        REGION="europe-west9",
        MEMORY="2Gi",
    )

    assert "--region=europe-west9 --memory=4Gi" in ended.stdout
    assert "MEMORY_LIMIT=4Gi" in ended.stdout


def test_a_name_that_is_near_no_setting_passes(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--env=OMP_NUM_THREADS=2", "deploy", "embed_text")

    (deployed,) = [call for call in calls if call[:2] == ["run", "deploy"]]
    assert flag(deployed, "set-env-vars").endswith(",OMP_NUM_THREADS=2")


def test_the_index_that_is_set_is_the_one_that_is_made(tmp_path: Path) -> None:
    index = "--env=INDEX_URL=firestore://other-project/holidays"

    calls = plan(tmp_path, index, "deploy", "search")

    (deployed,) = [call for call in calls if call[:2] == ["run", "deploy"]]
    assert "INDEX_URL=firestore://other-project/holidays" in flag(deployed, "set-env-vars").split(",")
    expiry = [call for call in calls if call[:4] == ["firestore", "fields", "ttls", "update"]]
    assert [flag(call, "collection-group") for call in expiry] == ["holidays"]


def test_an_index_that_needs_nothing_gets_nothing(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--env=INDEX_URL=sqlite:////tmp/index", "deploy", "search")

    assert [call for call in calls if call[0] == "firestore"] == []
    (enabled,) = [call for call in calls if call[:2] == ["services", "enable"]]
    assert "firestore.googleapis.com" not in enabled


INDEX = "--index=postgresql://photos@/photos?host=/cloudsql/my-project:us-central1:db&table=photos"


def test_an_index_in_cloud_sql_gets_its_socket_its_password_and_its_roles(tmp_path: Path) -> None:
    options = (INDEX, "--index-password-secret=the-password", "--api-key-secret=the-key")

    calls = plan(tmp_path, *options, "deploy", "all") + plan(tmp_path, *options, "jobs", "deploy")

    assert all(INDEX in call for call in calls if "stage" in call)
    deployed = {
        call[call.index("deploy") + 1]: call for call in calls if call[0] == "run" and "deploy" in call
    }
    secrets = {
        name: [word.partition("=")[2] for word in call if word.startswith("--set-secrets=")]
        for name, call in deployed.items()
    }
    assert secrets["search"] == ["API_KEY=the-key:latest,PGPASSWORD=the-password:latest"]
    assert secrets["embed-text"] == ["API_KEY=the-key:latest"]
    assert secrets["on-upload"] == secrets["backfill"] == ["PGPASSWORD=the-password:latest"]
    assert secrets["run-job"] == []
    for name, call in deployed.items():
        uses_index = name in ("search", "on-upload", "on-delete", "backfill")
        assert ("--set-cloudsql-instances=my-project:us-central1:db" in call) == uses_index
        url = INDEX.removeprefix("--index=")
        assert (f"INDEX_URL={url}" in flag(call, "set-env-vars")) or not uses_index
    assert [call for call in calls if call[0] == "firestore"] == []
    roles = {flag(call, "role") for call in calls if "add-iam-policy-binding" in call}
    assert {"roles/cloudsql.client", "roles/secretmanager.secretAccessor"} <= roles
    assert "roles/datastore.user" not in roles
    granted = {call[2] for call in calls if call[:2] == ["secrets", "add-iam-policy-binding"]}
    assert granted == {"the-key", "the-password"}
    for enabled in (call for call in calls if call[:2] == ["services", "enable"]):
        assert {"sqladmin.googleapis.com", "secretmanager.googleapis.com"} <= {*enabled}
        assert "firestore.googleapis.com" not in enabled


def test_a_secret_may_hold_the_whole_url_of_an_index(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--index=the-url", "deploy", "search", "embed_text")

    search, text = (call for call in calls if call[:2] == ["run", "deploy"])
    assert flag(search, "set-secrets") == "INDEX_URL=the-url:latest"
    assert "INDEX_URL" not in flag(search, "set-env-vars")
    assert not any(word.startswith(("--set-secrets", "--set-cloudsql")) for word in text)
    assert [call for call in calls if call[0] == "firestore"] == []
    assert "roles/cloudsql.client" not in {flag(c, "role") for c in calls if "add-iam-policy-binding" in c}


def test_an_index_by_network_needs_no_role(tmp_path: Path) -> None:
    calls = plan(tmp_path, "--index=postgresql://u@db.example/d?table=photos", "deploy", "search")

    words = " ".join(word for call in calls for word in call)
    assert "INDEX_URL=postgresql://u@db.example/d?table=photos" in words
    for unneeded in ("cloudsql", "sqladmin", "secret", "firestore", "datastore"):
        assert unneeded not in words


def test_a_python_that_is_too_old_or_missing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    for python in (str(old), "no-such-python"):
        ended = deploy_sh("--help", folder=tmp_path, PYTHON=python)

        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            "deploy.sh: Python 3.11 or newer is needed; name one with PYTHON=python3.11.\n"
        )


def test_the_shell_script_only_hands_over() -> None:
    assert len((ROOT / "deploy.sh").read_text().splitlines()) <= 20


def test_help_names_every_function(tmp_path: Path) -> None:
    text = deploy_sh("--help", folder=tmp_path).stdout

    (line,) = [line for line in text.splitlines() if line.startswith("Functions: ")]
    assert {*NAMES} == {*line.removeprefix("Functions: ").replace("; job:", "").split()}


def test_help_names_every_option(tmp_path: Path) -> None:
    text = deploy_sh("--help", folder=tmp_path).stdout

    for option in (*OPTIONS, "--env", "--allow-unauthenticated", "--force", "--dry-run", "--yes"):
        assert f"  {option} " in text


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")

    ended = subprocess.run([shellcheck, "deploy.sh", ".ci/run"], cwd=ROOT, capture_output=True, text=True)

    assert (ended.returncode, ended.stdout) == (0, "")
