//! What every binding uses: lengths checked, errors as ValueError.

use pyo3::PyErr;
use pyo3::exceptions::PyValueError;

/// A byte string as an array of exactly N bytes.
pub fn exactly<const N: usize>(what: &str, value: &[u8]) -> Result<[u8; N], PyErr> {
    value
        .try_into()
        .map_err(|_| PyValueError::new_err(format!("{what} has {} bytes, not {N}", value.len())))
}
