# The resources that `./deploy.sh deploy all` makes, for those who keep theirs in Terraform.
#
#   ./deploy.sh --model demo stage all
#   cd examples/terraform && terraform init && terraform apply -var project=MY-PROJECT
#
# deploy.sh moves traffic to a version only when /ready answers 200, and deploys Cloud Run jobs; this does not.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google  = { source = "hashicorp/google", version = "~> 6.0" }
    archive = { source = "hashicorp/archive", version = "~> 2.4" }
  }
}

variable "project" { type = string }

variable "region" {
  type    = string
  default = "us-central1"
}

variable "model" {
  type    = string
  default = "demo"
}

variable "dimensions" {
  description = "of the model's vectors: Firestore's index has as many"
  type        = number
  default     = 128
}

locals {
  jobs_url = "gs://${google_storage_bucket.jobs.name}/jobs"
  photos = {
    BUCKET_URL = "gs://${google_storage_bucket.photos.name}"
    INDEX_URL  = "firestore://${var.project}/photos"
  }
  # Memory is that of the demo model; `./deploy.sh --model NAME --dry-run deploy all` prints what another needs.
  http_functions = {
    embed_text  = { memory = "512Mi", env = {} }
    embed_image = { memory = "1Gi", env = {} }
    embed_mixed = { memory = "1Gi", env = {} }
    jobs        = { memory = "1Gi", env = { JOBS_URL = local.jobs_url } }
    search      = { memory = "1Gi", env = local.photos }
  }
  event_functions = {
    run_job   = { memory = "1Gi", env = { JOBS_URL = local.jobs_url }, bucket = google_storage_bucket.jobs, event = "finalized" }
    on_upload = { memory = "1Gi", env = local.photos, bucket = google_storage_bucket.photos, event = "finalized" }
    on_delete = { memory = "512Mi", env = local.photos, bucket = google_storage_bucket.photos, event = "deleted" }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "api" {
  for_each = toset([
    "run", "cloudfunctions", "cloudbuild", "artifactregistry", "cloudresourcemanager", "iam", "storage",
    "eventarc", "pubsub", "firestore",
  ])
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

# Accounts, with these roles and no others.

resource "google_service_account" "functions" {
  account_id   = "clip-functions"
  display_name = "CLIP functions"
}

resource "google_service_account" "builds" {
  account_id   = "clip-builds"
  display_name = "CLIP builds"
}

resource "google_service_account" "events" {
  account_id   = "clip-events"
  display_name = "CLIP events"
}

data "google_storage_project_service_account" "agent" {}

resource "google_project_iam_member" "project" {
  for_each = {
    "roles/run.builder"            = google_service_account.builds.member
    "roles/datastore.user"         = google_service_account.functions.member
    "roles/eventarc.eventReceiver" = google_service_account.events.member
    "roles/pubsub.publisher"       = data.google_storage_project_service_account.agent.member
  }
  project = var.project
  role    = each.key
  member  = each.value
}

# Buckets.

resource "google_storage_bucket" "jobs" {
  name                        = "${var.project}-clip-jobs"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  lifecycle_rule {
    condition {
      age            = 2
      matches_prefix = ["jobs/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_storage_bucket" "photos" {
  name                        = "${var.project}-clip-photos"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

resource "google_storage_bucket_iam_member" "jobs" {
  bucket = google_storage_bucket.jobs.name
  role   = "roles/storage.objectUser"
  member = google_service_account.functions.member
}

resource "google_storage_bucket_iam_member" "photos" {
  bucket = google_storage_bucket.photos.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.functions.member
}

# The index.

resource "google_firestore_database" "default" {
  name        = "(default)"
  location_id = var.region
  type        = "FIRESTORE_NATIVE"
  depends_on  = [google_project_service.api]
}

resource "google_firestore_index" "vectors" {
  for_each   = { all = ["space"], of_names = ["space", "name"] }
  database   = google_firestore_database.default.name
  collection = "photos"
  dynamic "fields" {
    for_each = each.value
    content {
      field_path = fields.value
      order      = "ASCENDING"
    }
  }
  fields {
    field_path = "vector"
    vector_config {
      dimension = var.dimensions
      flat {}
    }
  }
}

resource "google_firestore_field" "expires" {
  database   = google_firestore_database.default.name
  collection = "photos"
  field      = "expires"
  ttl_config {}
}

# Functions.

resource "google_storage_bucket" "sources" {
  name                        = "${var.project}-clip-sources"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

data "archive_file" "source" {
  for_each    = toset(concat(keys(local.http_functions), keys(local.event_functions)))
  type        = "zip"
  source_dir  = "${path.module}/../../build/${each.key}"
  output_path = "${path.module}/.terraform/sources/${each.key}.zip"
}

resource "google_storage_bucket_object" "source" {
  for_each = data.archive_file.source
  bucket   = google_storage_bucket.sources.name
  name     = "${each.key}-${each.value.output_sha256}.zip"
  source   = each.value.output_path
}

resource "google_cloudfunctions2_function" "function" {
  for_each = merge(local.http_functions, local.event_functions)
  name     = replace(each.key, "_", "-")
  location = var.region
  labels   = { app = "clip-functions" }
  build_config {
    runtime         = "python313"
    entry_point     = each.key
    service_account = google_service_account.builds.id
    source {
      storage_source {
        bucket = google_storage_bucket.sources.name
        object = google_storage_bucket_object.source[each.key].name
      }
    }
  }
  service_config {
    service_account_email            = google_service_account.functions.email
    available_memory                 = each.value.memory
    available_cpu                    = "1"
    max_instance_request_concurrency = 8
    min_instance_count               = 0
    max_instance_count               = 10
    timeout_seconds                  = contains(keys(local.event_functions), each.key) ? 540 : 60
    environment_variables            = merge({ MODEL = var.model, MEMORY_LIMIT = each.value.memory }, each.value.env)
  }
  depends_on = [google_project_service.api, google_project_iam_member.project]
}

resource "google_cloud_run_v2_service_iam_member" "events" {
  for_each = local.event_functions
  location = var.region
  name     = google_cloudfunctions2_function.function[each.key].name
  role     = "roles/run.invoker"
  member   = google_service_account.events.member
}

resource "google_eventarc_trigger" "event" {
  for_each        = local.event_functions
  name            = replace(each.key, "_", "-")
  location        = lower(each.value.bucket.location)
  service_account = google_service_account.events.email
  matching_criteria {
    attribute = "type"
    value     = "google.cloud.storage.object.v1.${each.value.event}"
  }
  matching_criteria {
    attribute = "bucket"
    value     = each.value.bucket.name
  }
  destination {
    cloud_run_service {
      service = google_cloudfunctions2_function.function[each.key].name
      region  = var.region
    }
  }
  depends_on = [google_cloud_run_v2_service_iam_member.events]
}

output "urls" {
  value = { for name in keys(local.http_functions) : name => google_cloudfunctions2_function.function[name].url }
}
