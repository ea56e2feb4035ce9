//! The packet core of katzentwist: whole packets, in batches, without the interpreter lock.
//!
//! `katzentwist/sphinx/twin.py` is the readable reference; both give the same bytes. No input makes this code panic:
//! what is wrong with a packet is a value, what is wrong with a caller is a ValueError.

mod aead;
mod aez;
mod build;
mod commands;
mod cpu;
mod delays;
mod hopkeys;
mod mlkem;
mod py_aez;
mod py_bytes;
mod py_keys;
#[cfg(target_os = "linux")]
mod py_links;
#[cfg(target_os = "linux")]
mod py_marks;
mod py_records;
#[cfg(target_os = "linux")]
mod py_senders;
mod py_sphinx;
mod python;
mod records;
mod replay;
mod shape;
mod unwrap;
mod x25519;

use pyo3::prelude::*;

/// Counts changes of what this module offers; katzentwist/crypto/native.py refuses another number.
const INTERFACE: u32 = 8;

/// Which code runs on this processor.
#[pyfunction]
fn description() -> String {
    cpu::description()
}

/// Force the portable X25519 and AEZ, for tests and benchmarks.
#[pyfunction]
fn force_portable(on: bool) {
    cpu::force_portable(on);
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_function(wrap_pyfunction!(description, module)?)?;
    module.add_function(wrap_pyfunction!(force_portable, module)?)?;
    module.add_function(wrap_pyfunction!(py_keys::x25519_multiply, module)?)?;
    module.add_function(wrap_pyfunction!(py_keys::x25519_base, module)?)?;
    module.add_function(wrap_pyfunction!(py_keys::mlkem768_keypair, module)?)?;
    module.add_function(wrap_pyfunction!(py_keys::mlkem768_encapsulate, module)?)?;
    module.add_function(wrap_pyfunction!(py_keys::mlkem768_decapsulate, module)?)?;
    module.add_function(wrap_pyfunction!(py_bytes::join_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(py_bytes::cut_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(py_aez::aez_encrypt, module)?)?;
    module.add_function(wrap_pyfunction!(py_aez::aez_decrypt, module)?)?;
    module.add_function(wrap_pyfunction!(py_sphinx::unwrap_one, module)?)?;
    module.add_function(wrap_pyfunction!(py_sphinx::unwrap_batch, module)?)?;
    module.add_function(wrap_pyfunction!(py_sphinx::build_packet, module)?)?;
    module.add_function(wrap_pyfunction!(py_sphinx::new_surb, module)?)?;
    module.add_function(wrap_pyfunction!(py_sphinx::decrypt_reply, module)?)?;
    #[cfg(target_os = "linux")]
    module.add_class::<py_links::LinkSet>()?;
    #[cfg(target_os = "linux")]
    module.add_class::<py_senders::PacketSender>()?;
    #[cfg(target_os = "linux")]
    module.add_function(wrap_pyfunction!(py_senders::send_due, module)?)?;
    #[cfg(target_os = "linux")]
    module.add_class::<py_marks::Marks>()?;
    module.add_class::<py_records::RecordSealer>()?;
    module.add_class::<py_records::RecordOpener>()?;
    module.add_class::<delays::DelayHeap>()?;
    module.add_class::<replay::ReplaySet>()?;
    Ok(())
}
