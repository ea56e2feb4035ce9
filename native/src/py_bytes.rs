//! Copies of megabytes: without the interpreter lock, since each takes several milliseconds.

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// Less than this is done at once: to let go of the interpreter and to get it back costs more, and wakes other threads.
pub const WORTH_LETTING_GO: usize = 1 << 16;

/// A bytes object of all parts, one after the other.
pub fn copied<'py>(py: Python<'py>, parts: &[&[u8]]) -> PyResult<Bound<'py, PyBytes>> {
    if let [one] = parts
        && one.len() < WORTH_LETTING_GO
    {
        return Ok(PyBytes::new(py, one));
    }
    let size = parts.iter().map(|part| part.len()).sum::<usize>();
    let size = ffi::Py_ssize_t::try_from(size).map_err(|e| PyValueError::new_err(e.to_string()))?;
    // SAFETY: without data to copy it is a new object of that size, not filled, or null with an exception set.
    let new = unsafe {
        let pointer = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
        Bound::from_owned_ptr_or_err(py, pointer)?.cast_into_unchecked::<PyBytes>()
    };
    // SAFETY: it is a bytes object; as an integer, since a pointer may not go where the lock is not held.
    let start = unsafe { ffi::PyBytes_AsString(new.as_ptr()) } as usize;
    let fill = || {
        let mut target = start as *mut u8;
        for part in parts {
            // SAFETY: the object is as long as all parts together, and nobody else knows of it yet.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), target, part.len());
                target = target.add(part.len());
            }
        }
    };
    if size as usize >= WORTH_LETTING_GO {
        py.detach(fill);
    } else {
        fill();
    }
    Ok(new)
}

/// All parts, one after the other.
#[pyfunction]
pub fn join_bytes<'py>(
    py: Python<'py>,
    parts: Vec<PyBackedBytes>,
) -> PyResult<Bound<'py, PyBytes>> {
    copied(py, &parts.iter().map(|part| &**part).collect::<Vec<_>>())
}

/// data[start:stop].
#[pyfunction]
pub fn cut_bytes<'py>(
    py: Python<'py>,
    data: PyBackedBytes,
    start: usize,
    stop: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let stop = stop.min(data.len());
    copied(py, &[data.get(start..stop).unwrap_or_default()])
}
