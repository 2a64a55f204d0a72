//! Functions by the name that a user gives: `vfio-user:SOCKET`, `vfio:0000:BB:DD.F`,
//! `iommufd:0000:BB:DD.F`.

use std::path::PathBuf;
use std::sync::Arc;

use vfio_user::client::{ClientError, ClientOptions};

use super::VfioUser;
use super::kernel::{KernelError, KernelPlace, KernelVfio};
use crate::function::Function;

/// Where a function is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Behind a vfio-user socket.
    VfioUser(PathBuf),
    /// On the kernel's VFIO.
    Vfio(KernelPlace),
    /// On the kernel's VFIO, through iommufd.
    Iommufd(KernelPlace),
}

/// Why a function could not be named or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name says nothing that is known.
    #[error(
        "{0:?} names no function; write vfio-user:SOCKET with the path of a vfio-user socket, or \
         vfio:0000:BB:DD.F[,vf_token=UUID] with the address of a function on vfio-pci, or iommufd: \
         instead of vfio: where the kernel has that"
    )]
    Name(String),
    /// The function is not in a state in which it can be opened.
    #[error(transparent)]
    Vfio(#[from] KernelError),
    /// The socket could not be connected to.
    #[error("{path} cannot be opened; is its server running, and is the function enabled?")]
    VfioUser {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: ClientError,
    },
}

impl std::str::FromStr for Place {
    type Err = OpenError;

    fn from_str(name: &str) -> Result<Self, OpenError> {
        match name.split_once(':') {
            Some(("vfio-user", path)) if !path.is_empty() => Ok(Self::VfioUser(path.into())),
            Some(("vfio", place)) => place
                .parse()
                .map(Self::Vfio)
                .map_err(|_| OpenError::Name(name.into())),
            Some(("iommufd", place)) => place
                .parse()
                .map(Self::Iommufd)
                .map_err(|_| OpenError::Name(name.into())),
            _ => Err(OpenError::Name(name.into())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Vfio(place) => write!(f, "vfio:{place}"),
            Self::Iommufd(place) => write!(f, "iommufd:{place}"),
        }
    }
}

impl Place {
    /// Open the function.
    ///
    /// # Errors
    ///
    /// Nobody serves it; or it is not ready for kernel VFIO, and the error says what is missing.
    pub fn open(&self) -> Result<Arc<dyn Function>, OpenError> {
        match self {
            Self::VfioUser(path) => VfioUser::connect(path, ClientOptions::default())
                .map(|function| Arc::new(function) as Arc<dyn Function>)
                .map_err(|source| OpenError::VfioUser {
                    path: path.clone(),
                    source,
                }),
            Self::Vfio(place) => Ok(Arc::new(KernelVfio::open(place)?)),
            Self::Iommufd(place) => Ok(Arc::new(KernelVfio::open_iommufd(place)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let place: Place = "vfio-user:/run/pf.sock".parse().unwrap();
        assert_eq!(place.to_string(), "vfio-user:/run/pf.sock");
        let place: Place = "vfio:0000:01:10.7".parse().unwrap();
        assert_eq!(place.to_string(), "vfio:0000:01:10.7");
        let place: Place = "iommufd:0000:01:10.7".parse().unwrap();
        assert_eq!(place.to_string(), "iommufd:0000:01:10.7");
        for bad in [
            "iommufd:",
            "",
            "pf.sock",
            "vfio-user:",
            "usb:1",
            "vfio:",
            "vfio:0000:01:10.7,vf_token=1",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_absent_device_is_named() {
        for kind in ["vfio", "iommufd"] {
            let place: Place = format!("{kind}:fffe:ff:1f.7").parse().unwrap();
            let Err(error) = place.open() else {
                panic!("opened")
            };
            assert!(error.to_string().contains("fffe:ff:1f.7"), "{error}");
        }
    }

    #[test]
    fn an_absent_socket_is_named() {
        let error = "vfio-user:/nonexistent/pf.sock"
            .parse::<Place>()
            .unwrap()
            .open();
        let Err(error) = error else { panic!("opened") };
        assert!(
            error.to_string().contains("/nonexistent/pf.sock"),
            "{error}"
        );
    }
}
