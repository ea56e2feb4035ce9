//! Python bindings of AEZ.

use crate::aez;
use crate::python::exactly;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use zeroize::Zeroizing;

/// More would be a mistake of the caller.
const MAX_TAU: usize = 1 << 20;

fn check_tau(tau: usize) -> PyResult<()> {
    if tau > MAX_TAU {
        Err(PyValueError::new_err(format!(
            "tau of {tau} bytes is too large"
        )))
    } else {
        Ok(())
    }
}

/// AEZ Encrypt under an extracted 48-byte key.
#[pyfunction]
pub fn aez_encrypt<'py>(
    py: Python<'py>,
    key: &[u8],
    nonce: &[u8],
    ad: Vec<PyBackedBytes>,
    tau: usize,
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    check_tau(tau)?;
    let key = Zeroizing::new(exactly("AEZ key", key)?);
    let ad: Vec<&[u8]> = ad.iter().map(|text| &**text).collect();
    let out = py.detach(|| aez::encrypt(&key, nonce, &ad, tau, message));
    Ok(PyBytes::new(py, &out))
}

/// AEZ Decrypt; None when the ciphertext is not authentic.
#[pyfunction]
pub fn aez_decrypt<'py>(
    py: Python<'py>,
    key: &[u8],
    nonce: &[u8],
    ad: Vec<PyBackedBytes>,
    tau: usize,
    ciphertext: &[u8],
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    check_tau(tau)?;
    let key = Zeroizing::new(exactly("AEZ key", key)?);
    let ad: Vec<&[u8]> = ad.iter().map(|text| &**text).collect();
    let out = py.detach(|| aez::decrypt(&key, nonce, &ad, tau, ciphertext));
    Ok(out.map(|plain| PyBytes::new(py, &plain)))
}
