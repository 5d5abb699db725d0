//! Where the daemon meets the mirror: what a request names becomes a [`Service`].

use std::sync::Arc;

use super::{MountRequest, Service, StartError};
use crate::error::Error;

/// Opens the mirror of `request`.
pub fn mirror(request: &MountRequest) -> Result<Arc<dyn Service>, StartError> {
    Err(Error::new(format!("this build cannot serve {}", request.mountpoint.display())).into())
}
