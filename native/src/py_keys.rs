//! Python bindings of X25519 and ML-KEM-768.

use crate::python::exactly;
use crate::{mlkem, x25519};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zeroize::Zeroizing;

type Pair<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

/// X25519(scalar, point), 32 bytes. ValueError: wrong length or a point of low order.
#[pyfunction]
#[pyo3(name = "x25519")]
pub fn x25519_multiply<'py>(
    py: Python<'py>,
    scalar: &[u8],
    point: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let scalar = Zeroizing::new(exactly("X25519 scalar", scalar)?);
    let point = exactly("X25519 point", point)?;
    let shared = py.detach(|| x25519::multiply(&scalar, &point));
    match shared {
        Some(secret) => Ok(PyBytes::new(py, &*secret)),
        None => Err(PyValueError::new_err("low order point")),
    }
}

/// The public key of a private key.
#[pyfunction]
pub fn x25519_base<'py>(py: Python<'py>, scalar: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let scalar = Zeroizing::new(exactly("X25519 scalar", scalar)?);
    Ok(PyBytes::new(py, &x25519::multiply_base(&scalar)))
}

/// (expanded private key of 2400 bytes, public key of 1184) of a 64-byte seed d || z.
#[pyfunction]
pub fn mlkem768_keypair<'py>(py: Python<'py>, seed: &[u8]) -> PyResult<Pair<'py>> {
    let seed = Zeroizing::new(exactly("ML-KEM seed", seed)?);
    let (private, public) = py.detach(|| mlkem::keypair(&seed));
    Ok((PyBytes::new(py, &*private), PyBytes::new(py, &public)))
}

/// (ciphertext, shared secret) with the chosen 32 bytes m. ValueError: wrong length or the modulus check.
#[pyfunction]
pub fn mlkem768_encapsulate<'py>(
    py: Python<'py>,
    public: &[u8],
    message: &[u8],
) -> PyResult<Pair<'py>> {
    let public = exactly("ML-KEM public key", public)?;
    let message = Zeroizing::new(exactly("ML-KEM message", message)?);
    match py.detach(|| mlkem::encapsulate(&public, &message)) {
        Some((ciphertext, secret)) => {
            Ok((PyBytes::new(py, &ciphertext), PyBytes::new(py, &*secret)))
        }
        None => Err(PyValueError::new_err(
            "ML-KEM public key fails the modulus check",
        )),
    }
}

/// The shared secret. The key is a 64-byte seed or an expanded key of 2400 bytes.
#[pyfunction]
pub fn mlkem768_decapsulate<'py>(
    py: Python<'py>,
    private: &[u8],
    ciphertext: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let ciphertext = exactly("ML-KEM ciphertext", ciphertext)?;
    let secret = if private.len() == mlkem::SEED_SIZE {
        let seed = Zeroizing::new(exactly("ML-KEM seed", private)?);
        py.detach(|| mlkem::decapsulate_from_seed(&seed, &ciphertext))
    } else {
        let key = Zeroizing::new(exactly("ML-KEM private key", private)?);
        py.detach(|| mlkem::decapsulate(&key, &ciphertext))
    };
    Ok(PyBytes::new(py, &*secret))
}
