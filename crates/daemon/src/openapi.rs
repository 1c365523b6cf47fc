//! The OpenAPI document of the control API, made from its handlers and types.

use utoipa::OpenApi;

use crate::{api, files};

#[derive(OpenApi)]
#[openapi(
    info(title = "banger control API", description = "HTTP/1.1 with JSON on a unix socket"),
    paths(
        api::daemon_show,
        api::daemon_stop,
        api::openapi,
        api::vm_list,
        api::vm_create,
        api::vm_show,
        api::vm_start,
        api::vm_stop,
        api::vm_restart,
        api::vm_kill,
        api::vm_set,
        api::vm_reset,
        api::vm_delete,
        api::vm_exec,
        api::vm_connect,
        files::vm_files_read,
        files::vm_files_write,
        api::vm_ports,
        api::vm_health,
        api::vm_logs,
        api::vm_stats,
        api::workspace_plan,
        api::workspace_show,
        api::workspace_prepare,
        api::workspace_export,
        api::workspace_patch,
        api::workspace_changes,
        api::image_list,
        api::image_show,
        api::image_delete,
        api::image_import,
        api::image_pull,
        api::image_cache,
        api::image_cache_prune,
        api::image_build,
        api::kernel_list,
        api::kernel_show,
        api::kernel_delete,
        api::kernel_import,
        api::kernel_pull,
        api::catalog_show,
        api::catalog_refresh,
        api::events,
        api::operation_list,
        api::operation_show,
        api::operation_cancel,
    )
)]
struct Document;

/// The document as JSON.
///
/// # Panics
/// Never: its keys are strings.
#[must_use]
pub fn document() -> String {
    Document::openapi().to_pretty_json().expect("its keys are strings")
}
