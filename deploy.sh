#!/usr/bin/env bash
# From this checkout to Cloud Run functions: see --help.
set -euo pipefail
shopt -s extglob

# One row per function: what starts it, the towers it holds, its requirements, what else it is given.
#   started by: http; task (a Cloud Run job); BUCKET:EVENT, an event of the jobs or the photos bucket
#   given:      jobs (JOBS_URL), photos (BUCKET_URL), index (INDEX_URL); - for nothing
FUNCTIONS="
embed_text   http              text        requirements.txt                            -
embed_image  http              image       requirements.txt                            -
embed_mixed  http              text,image  requirements.txt                            -
jobs         http              text,image  requirements/cloud-storage.txt          jobs
run_job      jobs:finalized    text,image  requirements/cloud-storage.txt          jobs
search       http              text,image  requirements/firestore.txt   photos,index
on_upload    photos:finalized  image       requirements/firestore.txt   photos,index
on_delete    photos:deleted    -           requirements/firestore.txt   photos,index
backfill     task              image       requirements/firestore.txt   photos,index
gateway      http              text,image  requirements/firestore.txt   jobs,photos,index
"

usage() {
  cat <<'HELP'
Usage: ./deploy.sh [options] COMMAND [FUNCTION...]

  stage FUNCTION...          assemble build/FUNCTION/, what that function is deployed from
  deploy FUNCTION...|all     stage, then deploy to Cloud Run; "all" is every function but gateway
  jobs deploy [JOB...]       stage and deploy the Cloud Run jobs (backfill)
  jobs run JOB [-- ARG...]   run one and wait for its end
  status                     what is deployed, and where
  logs FUNCTION              its newest log lines
  delete FUNCTION...|all     remove functions and their triggers; asks first

Functions: embed_text embed_image embed_mixed jobs run_job search on_upload on_delete gateway; job: backfill

Options, each with the environment variable that sets it too:
  --model NAME              MODEL            the baked model (ViT-B-32/laion400m_e32); "demo" only if named
  --models NAME,NAME        MODELS           others that answer beside it, for requests that name them (none)
  --project ID              PROJECT          the project (gcloud's own setting)
  --region REGION           REGION           where functions run (us-central1)
  --memory SIZE             MEMORY           such as 1Gi (the smallest that holds the function)
  --cpu N                   CPU              CPUs of an instance (1)
  --concurrency N           CONCURRENCY      requests at once in an instance (8)
  --min-instances N         MIN_INSTANCES    kept warm, at a cost (0)
  --max-instances N         MAX_INSTANCES    bounds the bill (10)
  --timeout SECONDS         TIMEOUT          of a request (60; events 540, jobs 86400)
  --tasks N                 TASKS            parallel shares of a Cloud Run job (1)
  --base-image NAME         BASE_IMAGE       the buildpack's run time (python313)
  --jobs-bucket NAME        JOBS_BUCKET      (PROJECT-clip-jobs; made where it is missing)
  --photos-bucket NAME      PHOTOS_BUCKET    (PROJECT-clip-photos; made where it is missing)
  --collection NAME         COLLECTION       of the index in Firestore (photos)
  --allowed-buckets A,B     ALLOWED_BUCKETS  that gs:// references may name (none)
  --service-account EMAIL   SERVICE_ACCOUNT  functions run as it (clip-functions@PROJECT, made where missing)
  --build-service-account EMAIL    BUILD_SERVICE_ACCOUNT    builds them (clip-builds@PROJECT, likewise)
  --trigger-service-account EMAIL  TRIGGER_SERVICE_ACCOUNT  delivers events (clip-events@PROJECT, likewise)
  --api-key-secret NAME     API_KEY_SECRET   a secret in Secret Manager that callers must send as API key
  --env NAME=VALUE                           any other setting of the functions; may be repeated
  --allow-unauthenticated   ALLOW_UNAUTHENTICATED=true   let everybody call the HTTP functions
  --build-dir FOLDER        BUILD_DIR        (build)
  --force                                    deploy even what has not changed
  --dry-run                                  print the commands, ready to paste, and touch nothing
  --yes                                      do not ask

Examples:
  ./deploy.sh --dry-run deploy all
  ./deploy.sh --model demo --project my-project deploy embed_text
  ./deploy.sh --model ViT-B-32/laion400m_e32 --photos-bucket my-photos deploy search on_upload on_delete
  ./deploy.sh --photos-bucket my-photos --tasks 4 jobs deploy && ./deploy.sh jobs run backfill -- --prefix 2024/
HELP
}

die() {
  printf 'deploy.sh: %s\n' "$*" >&2
  exit 1
}

say() { printf '%s\n' "$*" >&2; }

# --- commands, run or printed -------------------------------------------------------------------------------

# What is looked up while a plan runs is in the plan a variable: its name between two of these.
MARK=$'\001'
DRY_RUN=false

# REPLY becomes a word as a shell takes it back.
quote() {
  local rest=$1 name
  REPLY=""
  while [[ $rest == *"$MARK"* ]]; do
    literal "${rest%%"$MARK"*}"
    rest=${rest#*"$MARK"}
    name=${rest%%"$MARK"*}
    rest=${rest#*"$MARK"}
    REPLY+="\"\${$name}\""
  done
  literal "$rest"
  REPLY=${REPLY:-"''"}
}

literal() {
  local LC_ALL=C quoted="'\\''"
  case $1 in
    "") ;;
    *[!A-Za-z0-9_./:=@%,+-]*) REPLY+="'${1//\'/$quoted}'" ;;
    *) REPLY+=$1 ;;
  esac
}

# LINE becomes a command as a person pastes it.
line() {
  local word width=0
  LINE=""
  for word in "$@"; do
    quote "$word"
    if ((width + ${#REPLY} > 100)); then
      LINE+=$' \\\n   '
      width=4
    fi
    LINE+="${LINE:+ }$REPLY"
    ((width += ${#REPLY} + 1))
  done
}

run() {
  line "$@"
  if $DRY_RUN; then
    printf '%s\n' "$LINE"
  else
    say "+ $LINE"
    "$@"
  fi
}

# New accounts and roles take a while to be known everywhere.
patiently() {
  local try
  if ! $DRY_RUN; then
    for try in 1 2 3 4 5; do
      run "$@" && return
      say "  not yet (try $try of 6); again in ${RETRY_SECONDS:-10} seconds"
      sleep "${RETRY_SECONDS:-10}"
    done
  fi
  run "$@"
}

# lookup NAME COMMAND...: the variable NAME becomes what the command prints.
lookup() {
  local name=$1 found
  shift
  line "$@"
  if $DRY_RUN; then
    # shellcheck disable=SC2016 # For the shell that the plan is pasted into; below as well.
    printf '%s="$(%s)"\n' "$name" "$LINE"
    printf -v "$name" '%s' "$MARK$name$MARK"
  else
    found=$("$@") || die "this failed: $LINE"
    [[ -n $found ]] || die "this found nothing: $LINE"
    printf -v "$name" '%s' "$found"
  fi
}

# unless CHECK... -- COMMAND...: the command, unless the check prints something.
unless() {
  local check=()
  while [[ $1 != -- ]]; do
    check+=("$1")
    shift
  done
  shift
  if $DRY_RUN; then
    line "${check[@]}"
    # shellcheck disable=SC2016
    printf '[ -n "$(%s 2>/dev/null)" ] ||\n  ' "$LINE"
    run "$@"
  elif [[ -z $("${check[@]}" 2>/dev/null || true) ]]; then
    run "$@"
  fi
}

confirm() {
  $YES && return
  [[ -t 0 ]] || return 1
  local answer
  read -r -p "$1 [y/N] " answer
  [[ $answer == [yY]* ]]
}

# --- the table ----------------------------------------------------------------------------------------------

# TRIGGER, TOWERS, REQUIREMENTS and GIVEN become those of a function.
row() {
  local name
  while read -r name TRIGGER TOWERS REQUIREMENTS GIVEN; do
    if [[ -n $name && $name == "$1" ]]; then
      [[ -z $ALLOWED_BUCKETS || $REQUIREMENTS != requirements.txt || $TOWERS != *image* ]] ||
        REQUIREMENTS=requirements/cloud-storage.txt
      return
    fi
  done <<<"$FUNCTIONS"
  return 1
}

# NAMES becomes the functions that the arguments name. $1: functions or tasks, whichever "all" means.
expand() {
  local kind=$1 name trigger rest argument
  shift
  NAMES=()
  for argument in "$@"; do
    if [[ $argument == all ]]; then
      while read -r name trigger rest; do
        [[ -n $name && $name != gateway ]] || continue
        if [[ $trigger == task ]]; then [[ $kind == tasks ]]; else [[ $kind == functions ]]; fi && NAMES+=("$name")
      done <<<"$FUNCTIONS"
      continue
    fi
    row "$argument" || die "there is no function $(printf %q "$argument"); see ./deploy.sh --help."
    NAMES+=("$argument")
  done
  ((${#NAMES[@]})) || die "name a function, or \"all\"; see ./deploy.sh --help."
}

given() { [[ ,$GIVEN, == *,$1,* ]]; }
# What keeps or searches the index holds one model's vectors, and no other.
has_models() { ! given index || given jobs; }
is_task() { [[ $TRIGGER == task ]]; }
is_event() { [[ $TRIGGER == *:* ]]; }
service_name() { SERVICE=${1//_/-}; }

# Whether any of NAMES has what the arguments test for, run with its row at hand.
any() {
  local name
  for name in "${NAMES[@]}"; do
    row "$name"
    "$@" && return
  done
  return 1
}

# --- staging ------------------------------------------------------------------------------------------------

stager() { # FUNCTION OPTION...
  local name=$1 more=() model
  shift
  row "$name"
  ! is_task || more=(--job)
  if has_models && [[ -n $MODELS ]]; then
    while read -r -d , model; do more+=("--model=$model"); done <<<"$MODELS,"
  fi
  "$PYTHON" -B -m deploy.stage "$name" "--model=$MODEL" "--towers=$TOWERS" "--requirements=$REQUIREMENTS" \
    ${more[@]+"${more[@]}"} "$@"
}

stage() {
  local name words=()
  if $DRY_RUN; then
    words=(./deploy.sh "--model=$MODEL")
    [[ -z $MODELS ]] || words+=("--models=$MODELS")
    [[ $BUILD_DIR == build ]] || words+=("--build-dir=$BUILD_DIR")
    [[ -z $ALLOWED_BUCKETS ]] || words+=("--allowed-buckets=$ALLOWED_BUCKETS")
    run "${words[@]}" stage "${NAMES[@]}"
    return
  fi
  mkdir -p "$BUILD_DIR"
  for name in "${NAMES[@]}"; do
    stager "$name" "--out=$BUILD_DIR/$name"
  done
  # Jobs are forgotten by the bucket. A rule counts whole days, and must not be quicker than JOBS_TTL.
  printf '{"rule": [{"action": {"type": "Delete"}, "condition": {"age": %d, "matchesPrefix": ["jobs/"]}}]}\n' \
    "$((JOBS_TTL / 86400 + 1))" >"$BUILD_DIR/jobs-lifecycle.json"
}

# MODEL_NAMES, DIMENSIONS and FITS (memory) become those of a function.
facts() {
  local options=(--describe) found
  ! $DRY_RUN || options+=(--assume)
  found=$(stager "$1" "${options[@]}") || exit 1
  read -r MODEL_NAMES DIMENSIONS FITS <<<"$found"
}

# --- before anything is deployed ----------------------------------------------------------------------------

# gcloud for this project; what is read must not depend on the person's own settings.
in_project() { COMMAND=(gcloud "$@" "--project=$PROJECT"); }

gcloud_here() {
  $DRY_RUN && return
  command -v gcloud >/dev/null ||
    die "gcloud is not installed: follow https://cloud.google.com/sdk/docs/install, then run gcloud init."
  gcloud auth print-access-token --quiet >/dev/null 2>&1 ||
    die "gcloud is not logged in, or no longer: run gcloud auth login."
}

project_set() {
  if [[ -z $PROJECT ]] && ! $DRY_RUN; then
    PROJECT=$(gcloud config get-value project 2>/dev/null || true)
    [[ -n $PROJECT && $PROJECT != "(unset)" ]] ||
      die "no project is chosen: run gcloud config set project PROJECT, or name one with --project."
    valid PROJECT
  elif [[ -z $PROJECT ]]; then
    lookup PROJECT gcloud config get-value project
  fi
  SERVICE_ACCOUNT_GIVEN=$SERVICE_ACCOUNT
  BUILD_SERVICE_ACCOUNT_GIVEN=$BUILD_SERVICE_ACCOUNT
  TRIGGER_SERVICE_ACCOUNT_GIVEN=$TRIGGER_SERVICE_ACCOUNT
  SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-clip-functions@$PROJECT.iam.gserviceaccount.com}
  BUILD_SERVICE_ACCOUNT=${BUILD_SERVICE_ACCOUNT:-clip-builds@$PROJECT.iam.gserviceaccount.com}
  TRIGGER_SERVICE_ACCOUNT=${TRIGGER_SERVICE_ACCOUNT:-clip-events@$PROJECT.iam.gserviceaccount.com}
  JOBS_BUCKET=${JOBS_BUCKET:-$PROJECT-clip-jobs}
  PHOTOS_BUCKET=${PHOTOS_BUCKET:-$PROJECT-clip-photos}
}

apis_enabled() {
  local apis=(run cloudbuild artifactregistry cloudresourcemanager iam storage) missing=() enabled api
  ! any is_event || apis+=(eventarc pubsub)
  ! any given index || apis+=(firestore)
  [[ -z $API_KEY_SECRET ]] || apis+=(secretmanager)
  in_project services enable "${apis[@]/%/.googleapis.com}"
  local enable=("${COMMAND[@]}")
  if $DRY_RUN; then
    run "${enable[@]}"
    return
  fi
  in_project services list --enabled '--format=value(config.name)'
  enabled=$("${COMMAND[@]}") || die "the project $PROJECT cannot be read: check its name, and your roles in it."
  for api in "${apis[@]}"; do
    [[ $'\n'$enabled$'\n' == *$'\n'"$api.googleapis.com"$'\n'* ]] || missing+=("$api")
  done
  ((${#missing[@]})) || return 0
  line "${enable[@]}"
  say "These APIs are not enabled in $PROJECT: ${missing[*]}. This enables them:"
  say "  $LINE"
  confirm "Run it now?" || die "nothing was deployed; run the command above, then deploy again."
  run "${enable[@]}"
}

# --- what the functions need around them --------------------------------------------------------------------

account() { # EMAIL GIVEN DISPLAY-NAME: makes the account unless it was given
  [[ -z $2 ]] || return 0
  in_project iam service-accounts list "--filter=email=$1" '--format=value(email)'
  local check=("${COMMAND[@]}")
  in_project iam service-accounts create "${1%%@*}" "--display-name=$3"
  unless "${check[@]}" -- "${COMMAND[@]}"
}

grant_project() { # MEMBER ROLE
  patiently gcloud projects add-iam-policy-binding "$PROJECT" "--member=serviceAccount:$1" "--role=$2" \
    --condition=None --format=none
}

grant_bucket() { # BUCKET ROLE, to the functions
  in_project storage buckets add-iam-policy-binding "gs://$1" "--member=serviceAccount:$SERVICE_ACCOUNT" \
    "--role=$2" --format=none
  patiently "${COMMAND[@]}"
}

bucket() { # BUCKET: makes it unless it exists
  in_project storage buckets describe "gs://$1" '--format=value(name)'
  local check=("${COMMAND[@]}")
  in_project storage buckets create "gs://$1" "--location=$REGION" --uniform-bucket-level-access \
    --public-access-prevention
  unless "${check[@]}" -- "${COMMAND[@]}"
}

forget_jobs() {
  local rules
  in_project storage buckets update "gs://$JOBS_BUCKET" "--lifecycle-file=$BUILD_DIR/jobs-lifecycle.json"
  local update=("${COMMAND[@]}")
  in_project storage buckets describe "gs://$JOBS_BUCKET" '--format=value(lifecycle_config)'
  if ! $DRY_RUN; then
    rules=$("${COMMAND[@]}") || die "the bucket gs://$JOBS_BUCKET cannot be read."
    # An update replaces every rule of the bucket: those of others are not ours to drop.
    [[ -z $rules || $rules == *jobs/* ]] ||
      die "gs://$JOBS_BUCKET has lifecycle rules of its own: add the one in $BUILD_DIR/jobs-lifecycle.json" \
        "to them, or name another bucket with --jobs-bucket."
  fi
  unless "${COMMAND[@]}" -- "${update[@]}"
}

index() {
  in_project firestore databases describe '--format=value(name)'
  local check=("${COMMAND[@]}")
  in_project firestore databases create "--location=$REGION" --type=firestore-native
  unless "${check[@]}" -- "${COMMAND[@]}"
  # Searches stay inside one space, some below a prefix of the name: filters are part of a vector index.
  vector_index space
  vector_index space name
  # What is remembered of removed photos goes away by itself.
  in_project firestore fields ttls update expires "--collection-group=$COLLECTION" --enable-ttl --async
  run "${COMMAND[@]}"
}

vector_index() { # FIELD...: those that queries filter by
  local fields=() field filter="name~/collectionGroups/$COLLECTION/ AND fields.vectorConfig.dimension=$DIMENSIONS"
  for field in "$@"; do fields+=("--field-config=field-path=$field,order=ascending"); done
  fields+=("--field-config=field-path=vector,vector-config={\"dimension\":\"$DIMENSIONS\",\"flat\":\"{}\"}")
  # Names of indexes say nothing: they are told apart by their fields, of which Firestore adds some.
  for field in space name; do
    [[ " $* " == *" $field "* ]] || filter+=" AND NOT fields.fieldPath=$field"
    [[ " $* " != *" $field "* ]] || filter+=" AND fields.fieldPath=$field"
  done
  in_project firestore indexes composite list "--filter=$filter" '--format=value(name)'
  local check=("${COMMAND[@]}")
  in_project firestore indexes composite create "--collection-group=$COLLECTION" --query-scope=collection \
    "${fields[@]}" --async
  unless "${check[@]}" -- "${COMMAND[@]}"
}

surroundings() {
  local name allowed
  account "$SERVICE_ACCOUNT" "$SERVICE_ACCOUNT_GIVEN" "CLIP functions"
  account "$BUILD_SERVICE_ACCOUNT" "$BUILD_SERVICE_ACCOUNT_GIVEN" "CLIP builds"
  grant_project "$BUILD_SERVICE_ACCOUNT" roles/run.builder
  if any is_task; then
    # gcloud takes no build account for Cloud Run jobs: the project's default one builds them.
    lookup PROJECT_NUMBER gcloud projects describe "$PROJECT" '--format=value(projectNumber)'
    grant_project "$PROJECT_NUMBER-compute@developer.gserviceaccount.com" roles/run.builder
  fi
  if [[ -n $API_KEY_SECRET ]]; then
    in_project secrets add-iam-policy-binding "$API_KEY_SECRET" \
      "--member=serviceAccount:$SERVICE_ACCOUNT" --role=roles/secretmanager.secretAccessor --format=none
    patiently "${COMMAND[@]}"
  fi
  if [[ -n $ALLOWED_BUCKETS ]]; then
    local IFS=,
    for allowed in $ALLOWED_BUCKETS; do grant_bucket "$allowed" roles/storage.objectViewer; done
    unset IFS
  fi
  if any given jobs; then
    bucket "$JOBS_BUCKET"
    forget_jobs
    grant_bucket "$JOBS_BUCKET" roles/storage.objectUser
  fi
  if any given photos; then
    bucket "$PHOTOS_BUCKET"
    grant_bucket "$PHOTOS_BUCKET" roles/storage.objectViewer
  fi
  if any given index; then
    for name in "${NAMES[@]}"; do row "$name"; ! given index || facts "$name"; done
    index
    grant_project "$SERVICE_ACCOUNT" roles/datastore.user
  fi
  if any is_event; then
    account "$TRIGGER_SERVICE_ACCOUNT" "$TRIGGER_SERVICE_ACCOUNT_GIVEN" "CLIP events"
    in_project storage service-agent
    lookup STORAGE_AGENT "${COMMAND[@]}"
    grant_project "$STORAGE_AGENT" roles/pubsub.publisher
    grant_project "$TRIGGER_SERVICE_ACCOUNT" roles/eventarc.eventReceiver
  fi
}

# --- deploying ----------------------------------------------------------------------------------------------

# PAIRS becomes NAME=VALUE,... in gcloud's own way to say which character separates.
pairs() {
  local separator pair joined
  for separator in ',' '|' ';' '#' ':::' '@@@'; do
    PAIRS=""
    for pair in "$@"; do
      # Neither inside the pair nor begun by its end.
      joined=$pair$separator
      [[ ${joined%%"$separator"*} == "$pair" ]] || continue 2
      PAIRS+="${PAIRS:+$separator}$pair"
    done
    [[ $separator == , ]] || PAIRS="^$separator^$PAIRS"
    return
  done
  die "these values hold everything that could separate them: $*"
}

settings() { # of a function; SETTINGS becomes NAME=VALUE,...
  local values=("MODEL=${MODEL_NAMES%%,*}") value
  [[ $MODEL_NAMES != *,* ]] || values+=("MODELS=${MODEL_NAMES#*,}")
  for value in ${ENV[@]+"${ENV[@]}"}; do
    [[ $value == PROTOCOL_MODELS=* ]] && ! has_models || values+=("$value")
  done
  ! given jobs || values+=("JOBS_URL=gs://$JOBS_BUCKET/jobs")
  ! given photos || values+=("BUCKET_URL=gs://$PHOTOS_BUCKET")
  ! given index || values+=("INDEX_URL=firestore://$PROJECT/$COLLECTION")
  [[ -z $ALLOWED_BUCKETS || $TOWERS != *image* ]] || values+=("ALLOWED_BUCKETS=$ALLOWED_BUCKETS")
  pairs "${values[@]}"
  SETTINGS=$PAIRS
}

deploy_one() {
  local name=$1 flags check hash probe=/ready
  facts "$name"
  settings
  service_name "$name"
  # shellcheck disable=SC2054 # Commas that gcloud takes apart.
  flags=("--region=$REGION" "--memory=${MEMORY:-$FITS}" "--cpu=$CPU" "--service-account=$SERVICE_ACCOUNT"
    "--set-env-vars=$SETTINGS")
  [[ -z $API_KEY_SECRET || $TRIGGER != http ]] || flags+=("--set-secrets=API_KEY=$API_KEY_SECRET:latest")
  if is_task; then
    flags+=("--tasks=$TASKS" --max-retries=3 "--task-timeout=${TIMEOUT:-86400}")
  else
    flags+=("--function=$name" "--base-image=$BASE_IMAGE" "--concurrency=$CONCURRENCY" --cpu-boost
      --execution-environment=gen2 "--min-instances=$MIN_INSTANCES" "--max-instances=$MAX_INSTANCES"
      "--build-service-account=projects/$PROJECT/serviceAccounts/$BUILD_SERVICE_ACCOUNT")
    if is_event; then
      flags+=("--timeout=${TIMEOUT:-540}" --no-allow-unauthenticated)
    else
      # /ready answers once the model is loaded, but not without the key, which a probe has not.
      [[ -z $API_KEY_SECRET ]] || probe=/health
      # The default of every ten seconds would undo a fast start.
      flags+=("--timeout=${TIMEOUT:-60}"
        "--startup-probe=httpGet.path=$probe,periodSeconds=1,timeoutSeconds=1,failureThreshold=120")
      if $ALLOW_UNAUTHENTICATED; then flags+=(--allow-unauthenticated); else flags+=(--no-allow-unauthenticated); fi
    fi
  fi
  # What was deployed, as a label: the staged files' hash, and one of how they are deployed.
  check=$(printf '%s\n' "${flags[@]}" | cksum)
  lookup CONTENT cat "$BUILD_DIR/$name.hash"
  hash="$CONTENT-${check%% *}"
  flags+=("--labels=app=clip-functions,deployed=$hash")
  if ! $FORCE && unchanged "$hash"; then
    say "$name is unchanged since it was last deployed ($hash); --force deploys it anyway."
  elif is_task; then
    in_project run jobs deploy "$SERVICE" "--source=$BUILD_DIR/$name" "${flags[@]}" --quiet
    run "${COMMAND[@]}"
  else
    in_project run deploy "$SERVICE" "--source=$BUILD_DIR/$name" "${flags[@]}" --quiet
    run "${COMMAND[@]}"
  fi
  ! is_event || trigger "$name"
}

unchanged() {
  ! $DRY_RUN || return 1
  local kind=services found
  ! is_task || kind='jobs'
  in_project run "$kind" describe "$SERVICE" "--region=$REGION" '--format=value(metadata.labels.deployed)'
  found=$("${COMMAND[@]}" 2>/dev/null) && [[ $found == "$1" ]]
}

trigger() {
  local bucket=$JOBS_BUCKET found
  [[ $TRIGGER == jobs:* ]] || bucket=$PHOTOS_BUCKET
  in_project run services add-iam-policy-binding "$SERVICE" "--region=$REGION" \
    "--member=serviceAccount:$TRIGGER_SERVICE_ACCOUNT" --role=roles/run.invoker --format=none
  patiently "${COMMAND[@]}"
  # A bucket's events are handed out where the bucket is, which need not be where functions run.
  in_project storage buckets describe "gs://$bucket" '--format=value(location.lower())'
  lookup LOCATION "${COMMAND[@]}"
  in_project eventarc triggers describe "$SERVICE" "--location=$LOCATION" '--format=value(eventFilters)'
  local check=("${COMMAND[@]}")
  if ! $DRY_RUN; then
    found=$("${check[@]}" 2>/dev/null || true)
    [[ -z $found || $found == *"'$bucket'"* ]] ||
      die "the trigger $SERVICE watches another bucket: run ./deploy.sh delete $1, then deploy it again."
    [[ -z $found ]] || return 0
  fi
  in_project eventarc triggers create "$SERVICE" "--location=$LOCATION" \
    "--destination-run-service=$SERVICE" "--destination-run-region=$REGION" \
    "--event-filters=type=google.cloud.storage.object.v1.${TRIGGER#*:}" "--event-filters=bucket=$bucket" \
    "--service-account=$TRIGGER_SERVICE_ACCOUNT"
  if $DRY_RUN; then unless "${check[@]}" -- "${COMMAND[@]}"; else patiently "${COMMAND[@]}"; fi
}

address() { # prints a function's URL and how to call it
  row "$1"
  [[ $TRIGGER == http ]] || return 0
  service_name "$1"
  in_project run services describe "$SERVICE" "--region=$REGION" '--format=value(status.url)'
  lookup URL "${COMMAND[@]}"
  $DRY_RUN && return
  local token='' body='/'
  # shellcheck disable=SC2016 # For the person's shell.
  $ALLOW_UNAUTHENTICATED || token='-H "Authorization: Bearer $(gcloud auth print-identity-token)" '
  case $1 in
    embed_text) body="/embed/text -d 'text=birthday cake'" ;;
    embed_image) body="/embed/image -F file=@model_cache/demo/pictures/birthday-cake.png" ;;
    embed_mixed | gateway) body="/embed/mixed -H 'Content-Type: application/json' -d @model_cache/demo/example.json" ;;
    jobs) body="/api/models" ;;
    search) body="/search -H 'Content-Type: application/json' -d '{\"text\": \"birthday cake\"}'" ;;
  esac
  printf '%s: %s\n  curl -s %s%s%s\n' "$1" "$URL" "$token" "$URL" "$body"
}

deploy() {
  local name
  gcloud_here
  project_set
  # Before anything is changed in the cloud: whatever cannot be staged stops it here.
  stage
  apis_enabled
  surroundings
  for name in "${NAMES[@]}"; do
    row "$name"
    deploy_one "$name"
  done
  for name in "${NAMES[@]}"; do address "$name"; done
}

# --- commands -----------------------------------------------------------------------------------------------

status() {
  gcloud_here
  project_set
  in_project run services list "--region=$REGION" --filter=metadata.labels.app=clip-functions \
    '--format=table(metadata.name:label=FUNCTION,status.conditions[0].status:label=READY,status.url:label=URL,metadata.labels.deployed:label=DEPLOYED)'
  run "${COMMAND[@]}"
  in_project run jobs list "--region=$REGION" --filter=metadata.labels.app=clip-functions \
    '--format=table(metadata.name:label=JOB,status.latestCreatedExecution.name:label=LAST_RUN)'
  run "${COMMAND[@]}"
  in_project eventarc triggers list --location=- \
    '--format=table(name.basename():label=TRIGGER,name.segment(3):label=LOCATION,destination.cloudRun.service:label=FUNCTION,eventFilters.map().extract(value).flatten():label=EVENTS)'
  run "${COMMAND[@]}"
}

logs() {
  gcloud_here
  project_set
  row "$1"
  service_name "$1"
  local kind=services
  ! is_task || kind='jobs'
  in_project run "$kind" logs read "$SERVICE" "--region=$REGION" --limit=100
  run "${COMMAND[@]}"
}

delete() {
  local name kind
  gcloud_here
  project_set
  $DRY_RUN || confirm "Delete ${NAMES[*]} from $PROJECT ($REGION), with their triggers?" ||
    die "nothing was deleted."
  for name in "${NAMES[@]}"; do
    row "$name"
    service_name "$name"
    kind=services
    ! is_task || kind='jobs'
    if is_event; then
      in_project eventarc triggers list --location=- "--filter=name~/triggers/$SERVICE$" '--format=value(name)'
      if $DRY_RUN; then
        lookup TRIGGER_NAME "${COMMAND[@]}"
      else
        TRIGGER_NAME=$("${COMMAND[@]}") || die "the triggers of $PROJECT cannot be listed."
      fi
      [[ -z $TRIGGER_NAME ]] || run gcloud eventarc triggers delete "$TRIGGER_NAME" --quiet
    fi
    in_project run "$kind" delete "$SERVICE" "--region=$REGION" --quiet
    run "${COMMAND[@]}" || say "  (it was not deployed)"
  done
  say "Buckets, the index and service accounts are still there; README.md says how to remove them."
}

jobs() {
  local command=${1:-}
  shift || true
  case $command in
    deploy)
      (($#)) || set -- all
      expand tasks "$@"
      deploy
      $DRY_RUN || say "Run it with ./deploy.sh jobs run ${NAMES[0]}."
      ;;
    run)
      (($#)) || die "name the job to run: ./deploy.sh jobs run backfill."
      expand tasks "$1"
      row "$1"
      is_task || die "$1 is no Cloud Run job but a function."
      service_name "$1"
      shift
      gcloud_here
      project_set
      in_project run jobs execute "$SERVICE" "--region=$REGION" --wait
      if (($#)); then
        pairs "$@"
        COMMAND+=("--args=$PAIRS")
      fi
      run "${COMMAND[@]}"
      ;;
    *) die "use jobs deploy or jobs run; see ./deploy.sh --help." ;;
  esac
}

# --- options ------------------------------------------------------------------------------------------------

# valid NAME: the variable of that name holds what it may hold, or nothing.
valid() {
  local LC_ALL=C value=${!1} pattern what
  case $1 in
    PROJECT) pattern='^[a-z][a-z0-9-]{4,28}[a-z0-9]$' what="a project's ID" ;;
    REGION) pattern='^[a-z]+-[a-z]+[0-9]+$' what="a region such as us-central1" ;;
    MEMORY) pattern='^[0-9]+(Mi|Gi)$' what="a size such as 512Mi or 1Gi" ;;
    CPU) pattern='^[0-9]+(\.[0-9]+)?$' what="a number such as 1" ;;
    CONCURRENCY | MIN_INSTANCES | MAX_INSTANCES | TIMEOUT | TASKS | JOBS_TTL)
      pattern='^[0-9]{1,7}$' what="a whole number" ;;
    BASE_IMAGE) pattern='^[a-z0-9][a-z0-9./-]*$' what="a base image such as python313" ;;
    JOBS_BUCKET | PHOTOS_BUCKET)
      pattern='^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$' what="a bucket's name, without gs://" ;;
    ALLOWED_BUCKETS)
      pattern='^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](,[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])*$'
      what="names of buckets, without gs://, separated by commas" ;;
    COLLECTION) pattern='^[A-Za-z][A-Za-z0-9_-]{0,99}$' what="a collection's name: letters, digits, - and _" ;;
    *SERVICE_ACCOUNT) pattern='^[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com$' what="a service account's email" ;;
    API_KEY_SECRET) pattern='^[A-Za-z0-9_][A-Za-z0-9_-]*$' what="a secret's name" ;;
    MODELS)
      pattern='^[^-,[:cntrl:]][^,[:cntrl:]]*(,[^-,[:cntrl:]][^,[:cntrl:]]*)*$'
      what="names of baked models, separated by commas" ;;
    MODEL | BUILD_DIR) pattern='^[^-[:cntrl:]][^[:cntrl:]]*$' what="a name or a folder" ;;
    ALLOW_UNAUTHENTICATED) pattern='^(true|false)$' what="true or false" ;;
  esac
  [[ -z $value || $value =~ $pattern ]] || die "$1=$(printf %q "$value") is not valid: use $what."
}

OPTIONS="MODEL MODELS PROJECT REGION MEMORY CPU CONCURRENCY MIN_INSTANCES MAX_INSTANCES TIMEOUT TASKS BASE_IMAGE
  JOBS_BUCKET PHOTOS_BUCKET COLLECTION ALLOWED_BUCKETS SERVICE_ACCOUNT TRIGGER_SERVICE_ACCOUNT
  BUILD_SERVICE_ACCOUNT API_KEY_SECRET BUILD_DIR"

environment() { # NAME=VALUE of --env
  [[ $1 =~ ^[A-Z][A-Z0-9_]*=[^[:cntrl:]]*$ ]] || die "--env $(printf %q "$1") is not valid: use NAME=VALUE."
  case ${1%%=*} in
    API_KEY) die "a key does not belong on a command line: keep it in Secret Manager, see --api-key-secret." ;;
    MODEL | MODELS | ALLOWED_BUCKETS) die "use the option for ${1%%=*}, not --env." ;;
    JOBS_TTL) JOBS_TTL=${1#*=} && valid JOBS_TTL ;;
  esac
  ENV+=("$1")
}

main() {
  local option name value rest=()
  PYTHON=${PYTHON:-python3}
  for name in $OPTIONS; do printf -v "$name" '%s' "${!name:-}"; done
  ALLOW_UNAUTHENTICATED=${ALLOW_UNAUTHENTICATED:-false}
  FORCE=false YES=false ENV=() JOBS_TTL=86400
  while (($#)); do
    option=$1
    shift
    case $option in
      -h | --help) usage && return ;;
      --dry-run) DRY_RUN=true ;;
      --force) FORCE=true ;;
      --yes) YES=true ;;
      --allow-unauthenticated) ALLOW_UNAUTHENTICATED=true ;;
      --)
        rest+=("$@")
        break
        ;;
      --*)
        name=${option%%=*}
        name=${name#--}
        [[ $name =~ ^[a-z-]+$ ]] && name=$(tr a-z- A-Z_ <<<"$name")
        [[ $option == --env* && $name == ENV || " ${OPTIONS//$'\n'/ } " == *" $name "* ]] ||
          die "there is no option $(printf %q "$option"); see --help."
        value=${option#*=}
        if [[ $option != *=* ]]; then
          (($#)) || die "$option needs a value."
          value=$1
          shift
        fi
        if [[ $name == ENV ]]; then
          environment "$value"
          continue
        fi
        [[ -n $value ]] || die "${option%%=*} is empty."
        printf -v "$name" '%s' "$value"
        ;;
      -*) die "there is no option $(printf %q "$option"); see --help." ;;
      *) rest+=("$option") ;;
    esac
  done
  for name in $OPTIONS ALLOW_UNAUTHENTICATED; do valid "$name"; done
  # A folder is meant from where the person is, the rest from here.
  [[ $MODEL != */* || ! -f $MODEL/manifest.json ]] || MODEL=$(cd "$MODEL" && pwd)
  cd "$(dirname "${BASH_SOURCE[0]}")"
  : "${MODEL:=ViT-B-32/laion400m_e32}" "${REGION:=us-central1}" "${CPU:=1}" "${CONCURRENCY:=8}"
  : "${MIN_INSTANCES:=0}" "${MAX_INSTANCES:=10}" "${TASKS:=1}" "${BASE_IMAGE:=python313}"
  : "${COLLECTION:=photos}" "${BUILD_DIR:=build}"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "Python 3.11 or newer is needed; name one with PYTHON=python3.11."
  "$PYTHON" -B -m deploy.settings ${ENV[@]+"${ENV[@]}"} || exit 1
  ((${#rest[@]})) || { usage >&2 && exit 2; }
  set -- "${rest[@]}"
  local command=$1
  shift
  case $command in
    stage | deploy | delete)
      expand functions "$@"
      "$command"
      ;;
    logs)
      expand functions "$@"
      logs "${NAMES[0]}"
      ;;
    jobs | status) "$command" "$@" ;;
    *) die "there is no command $(printf %q "$command"); see ./deploy.sh --help." ;;
  esac
}

main "$@"
