//! Python bindings of Sphinx. Geometry comes as the number of hops: these functions are for x25519 alone.

use crate::build::{self, Hop};
use crate::commands::{Kind, REDUNDANT, SENSELESS};
use crate::python::exactly;
use crate::shape::Shape;
use crate::unwrap::{self, Content, Sorted};
use crate::x25519::Secret;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use zeroize::Zeroizing;

type Bytes<'py> = Bound<'py, PyBytes>;
type PyUnwrapped<'py> = (
    Option<&'static str>,
    Option<Bytes<'py>>,
    Bytes<'py>,
    Option<Bytes<'py>>,
    Option<Bytes<'py>>,
);
/// (id, public key, encoded commands) of each hop.
type PyPath = Vec<(PyBackedBytes, PyBackedBytes, PyBackedBytes)>;

/// (error text or None, replay tag, command block, payload, next packet).
#[pyfunction]
#[pyo3(name = "unwrap")]
pub fn unwrap_one<'py>(
    py: Python<'py>,
    private_key: &[u8],
    packet: &[u8],
    nr_hops: usize,
) -> PyResult<PyUnwrapped<'py>> {
    let key = Zeroizing::new(exactly("mix key", private_key)?);
    let bytes = |data: &[u8]| PyBytes::new(py, data);
    Ok(
        match py.detach(|| unwrap::unwrap(&key, packet, Shape { nr_hops })) {
            Ok(found) => {
                let (payload, next) = match &found.content {
                    Content::Payload(payload) => (Some(bytes(payload)), None),
                    Content::Next(packet) => (None, Some(bytes(packet))),
                };
                (
                    None,
                    Some(bytes(&found.tag)),
                    bytes(&found.block),
                    payload,
                    next,
                )
            }
            Err(refusal) => (
                Some(refusal.text),
                refusal.tag.map(|tag| bytes(&tag)),
                bytes(&[]),
                None,
                None,
            ),
        },
    )
}

/// One tuple per packet, as `katzentwist.sphinx.unwrap.BatchResult` says.
#[pyfunction]
pub fn unwrap_batch<'py>(
    py: Python<'py>,
    keys: Vec<PyBackedBytes>,
    packets: Vec<PyBackedBytes>,
    nr_hops: usize,
    packet_length: usize,
) -> PyResult<Bound<'py, PyList>> {
    let keys = keys
        .iter()
        .map(|key| exactly("mix key", key).map(Secret::new))
        .collect::<PyResult<Vec<_>>>()?;
    let keys: Vec<MixKey> = keys.into_iter().map(MixKey).collect();
    let shape = Shape { nr_hops };
    let sorted: Vec<Sorted> = py.detach(|| {
        packets
            .iter()
            .map(|packet| unwrap::unwrap_and_sort(&keys, packet, packet_length, shape))
            .collect()
    });
    let tuples = sorted
        .into_iter()
        .map(|result| to_tuple(py, result))
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, tuples)
}

struct MixKey(Secret);

impl AsRef<[u8; 32]> for MixKey {
    fn as_ref(&self) -> &[u8; 32] {
        &self.0
    }
}

fn to_tuple(py: Python<'_>, result: Sorted) -> PyResult<Bound<'_, PyTuple>> {
    let bytes = |data: &[u8]| PyBytes::new(py, data);
    let none = || py.None().into_bound(py);
    match result {
        Sorted::Forward {
            key,
            tag,
            id,
            delay,
            packet,
        } => (
            key,
            bytes(&tag),
            Kind::Forward as u8,
            bytes(&id),
            delay,
            bytes(&packet),
        )
            .into_pyobject(py),
        Sorted::ToUser {
            key,
            tag,
            recipient,
            delay,
            payload,
        } => (
            key,
            bytes(&tag),
            Kind::ToUser as u8,
            bytes(&recipient),
            delay,
            bytes(&payload),
        )
            .into_pyobject(py),
        Sorted::SurbReply {
            key,
            tag,
            recipient,
            surb_id,
            payload,
        } => (
            key,
            bytes(&tag),
            Kind::SurbReply as u8,
            bytes(&recipient),
            bytes(&surb_id),
            bytes(&payload),
        )
            .into_pyobject(py),
        Sorted::Redundant { key, tag } => (
            key,
            bytes(&tag),
            Kind::Redundant as u8,
            PyString::intern(py, REDUNDANT),
            none(),
            none(),
        )
            .into_pyobject(py),
        Sorted::Senseless { key, tag } => (
            key,
            bytes(&tag),
            Kind::Senseless as u8,
            PyString::intern(py, SENSELESS),
            none(),
            none(),
        )
            .into_pyobject(py),
        Sorted::Refused(refusal) => {
            let tag = refusal.tag.map(|tag| bytes(&tag));
            (
                -1,
                tag,
                Kind::Invalid as u8,
                PyString::intern(py, refusal.text),
                none(),
                none(),
            )
                .into_pyobject(py)
        }
        Sorted::Size(size) => {
            let text = format!("invalid Sphinx packet size: {size}");
            (-1, none(), Kind::Invalid as u8, text, none(), none()).into_pyobject(py)
        }
    }
}

fn hops(path: &PyPath) -> PyResult<Vec<Hop<'_>>> {
    path.iter()
        .enumerate()
        .map(|(number, (id, public_key, commands))| {
            // The text of the Python twin.
            let size = public_key.len();
            let refused = || format!("sphinx: invalid mix key of hop {number}: x25519 public key has {size} bytes instead of 32");
            Ok(Hop {
                id: exactly("node id", id)?,
                public_key: (**public_key).try_into().map_err(|_| PyValueError::new_err(refused()))?,
                commands,
            })
        })
        .collect()
}

/// A forward packet. ValueError, with the text for the caller: path, commands or a mix key refused.
#[pyfunction]
#[pyo3(name = "build")]
pub fn build_packet<'py>(
    py: Python<'py>,
    nr_hops: usize,
    path: PyPath,
    payload: &[u8],
    ephemeral: &[u8],
    unused: &[u8],
) -> PyResult<Bytes<'py>> {
    let hops = hops(&path)?;
    let ephemeral = Zeroizing::new(exactly("ephemeral key", ephemeral)?);
    let packet = py.detach(|| build::packet(&hops, payload, &ephemeral, unused, Shape { nr_hops }));
    Ok(PyBytes::new(py, &packet.map_err(PyValueError::new_err)?))
}

/// (SURB, decryption keys); raises as build.
#[pyfunction]
pub fn new_surb<'py>(
    py: Python<'py>,
    nr_hops: usize,
    path: PyPath,
    payload_key: &[u8],
    ephemeral: &[u8],
    unused: &[u8],
) -> PyResult<(Bytes<'py>, Bytes<'py>)> {
    let hops = hops(&path)?;
    let payload_key = Zeroizing::new(exactly("payload key", payload_key)?);
    let ephemeral = Zeroizing::new(exactly("ephemeral key", ephemeral)?);
    let made =
        py.detach(|| build::surb(&hops, &payload_key, &ephemeral, unused, Shape { nr_hops }));
    let (surb, keys) = made.map_err(PyValueError::new_err)?;
    Ok((PyBytes::new(py, &surb), PyBytes::new(py, &keys)))
}

/// The reply, zero-padded. ValueError with the text for the caller.
#[pyfunction]
pub fn decrypt_reply<'py>(py: Python<'py>, keys: &[u8], payload: &[u8]) -> PyResult<Bytes<'py>> {
    let reply = py.detach(|| build::decrypt_reply(keys, payload));
    Ok(PyBytes::new(py, &reply.map_err(PyValueError::new_err)?))
}
