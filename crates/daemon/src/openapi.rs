//! The OpenAPI document of the control API, made from its handlers and types.

use utoipa::OpenApi;

use crate::{
    api::{catalog, daemon, image, kernel, operation, snapshot, vm, workspace},
    files,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "banger control API", description = "HTTP/1.1 with JSON on a unix socket"),
    paths(
        daemon::daemon_show,
        daemon::daemon_stop,
        daemon::openapi,
        vm::vm_list,
        vm::vm_create,
        vm::vm_show,
        vm::vm_start,
        vm::vm_stop,
        vm::vm_restart,
        vm::vm_kill,
        vm::vm_set,
        vm::vm_reset,
        vm::vm_delete,
        vm::vm_exec,
        vm::vm_connect,
        files::vm_files_read,
        files::vm_files_write,
        vm::vm_ports,
        vm::vm_health,
        vm::vm_logs,
        vm::vm_stats,
        workspace::workspace_plan,
        workspace::workspace_show,
        workspace::workspace_prepare,
        workspace::workspace_export,
        workspace::workspace_patch,
        workspace::workspace_changes,
        image::image_list,
        image::image_show,
        image::image_delete,
        image::image_import,
        image::image_register,
        image::image_promote,
        image::image_pull,
        image::image_prunable,
        image::image_prune,
        image::image_cache,
        image::image_cache_prune,
        image::image_build,
        kernel::kernel_list,
        kernel::kernel_show,
        kernel::kernel_delete,
        kernel::kernel_import,
        kernel::kernel_promote,
        kernel::kernel_pull,
        snapshot::vm_snapshot,
        snapshot::snapshot_list,
        snapshot::snapshot_show,
        snapshot::snapshot_delete,
        catalog::catalog_show,
        catalog::catalog_refresh,
        daemon::events,
        operation::operation_list,
        operation::operation_show,
        operation::operation_cancel,
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
