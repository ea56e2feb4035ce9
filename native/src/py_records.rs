//! Python bindings of the record layer. What is wrong with the stream is a katzentwist CryptoError, as in the twin.

use crate::aead::Key;
use crate::py_bytes::{WORTH_LETTING_GO, copied};
use crate::python::exactly;
use crate::records::{Direction, Opened, Opener};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};

pyo3::import_exception!(katzentwist.errors, CryptoError);

/// Do work over *size* bytes, without the interpreter lock where that pays.
fn run<T: Send>(py: Python<'_>, size: usize, work: impl FnOnce() -> T + Send) -> T {
    if size < WORTH_LETTING_GO {
        work()
    } else {
        py.detach(work)
    }
}

fn new_key(key: &[u8]) -> PyResult<Key> {
    exactly("record key", key)
        .map(Key::new)
        .map_err(|error| CryptoError::new_err(error.to_string()))
}

/// All of what can be iterated, held without a copy.
pub fn collect(items: &Bound<'_, PyAny>) -> PyResult<Vec<PyBackedBytes>> {
    items
        .try_iter()?
        .map(|item| Ok(item?.extract::<PyBackedBytes>()?))
        .collect()
}

/// Seals commands in one direction.
#[pyclass(module = "katzentwist._native")]
pub struct RecordSealer(Direction);

#[pymethods]
impl RecordSealer {
    #[new]
    #[pyo3(signature = (key, nonce = 0))]
    fn new(key: &[u8], nonce: u64) -> PyResult<Self> {
        Ok(RecordSealer(Direction::new(new_key(key)?, nonce)))
    }

    /// The records of these (already padded) commands, one after the other.
    fn seal<'py>(
        &mut self,
        py: Python<'py>,
        commands: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let commands = collect(commands)?;
        let size = commands.iter().map(|command| command.len()).sum();
        let out = run(py, size, || self.0.seal(&commands)).map_err(CryptoError::new_err)?;
        Ok(PyBytes::new(py, &out))
    }

    /// The records of SendPacket commands with these packets, each padded with zeros to pad_to bytes.
    fn seal_packets<'py>(
        &mut self,
        py: Python<'py>,
        packets: &Bound<'py, PyAny>,
        pad_to: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = Vec::new();
        self.packets(py, &collect(packets)?, pad_to, &mut out)?;
        Ok(PyBytes::new(py, &out))
    }

    /// The head of a record for a command of size bytes, which comes piece by piece.
    fn begin<'py>(&mut self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let head = self.0.begin(size).map_err(CryptoError::new_err)?;
        Ok(PyBytes::new(py, &head))
    }

    /// The next piece of the command that was begun, sealed; the last one completes the record.
    fn seal_piece<'py>(
        &mut self,
        py: Python<'py>,
        piece: PyBackedBytes,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let out = self.0.seal_piece(&piece).map_err(CryptoError::new_err)?;
        Ok(PyBytes::new(py, &out))
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &*self.0.key)
    }

    #[getter]
    fn nonce(&self) -> u64 {
        self.0.nonce
    }
}

impl RecordSealer {
    /// See seal_packets(); the records are appended.
    pub fn packets(
        &mut self,
        py: Python<'_>,
        packets: &[impl AsRef<[u8]> + Sync],
        pad_to: usize,
        out: &mut Vec<u8>,
    ) -> PyResult<()> {
        let size = packets.len().saturating_mul(pad_to);
        run(py, size, || self.0.seal_packets(packets, pad_to, out)).map_err(CryptoError::new_err)
    }
}

/// Opens the records of one direction.
#[pyclass(module = "katzentwist._native")]
pub struct RecordOpener(Opener);

#[pymethods]
impl RecordOpener {
    #[new]
    #[pyo3(signature = (key, max_body = 500_000_000))]
    fn new(key: &[u8], max_body: usize) -> PyResult<Self> {
        Ok(RecordOpener(Opener::new(new_key(key)?, max_body)))
    }

    /// The commands (still padded) that are complete with this data.
    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let data: PyBackedBytes = data.extract()?;
        let opener = &mut self.0;
        let size = if opener.has_large() {
            WORTH_LETTING_GO
        } else {
            data.len()
        };
        let opened = run(py, size, || opener.feed(&data)).map_err(CryptoError::new_err)?;
        let commands = opened.iter().map(|command| copied(py, &[command]));
        PyList::new(py, commands.collect::<PyResult<Vec<_>>>()?)
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &*self.0.direction().key)
    }

    #[getter]
    fn nonce(&self) -> u64 {
        self.0.direction().nonce
    }
}

impl RecordOpener {
    /// See feed(); or the text of a refusal.
    pub fn open<'a>(&'a mut self, data: &'a mut [u8]) -> Result<Opened<'a>, String> {
        self.0.feed_in_place(data)
    }
}
