//! A timer of the kernel that tells each full millisecond, as a descriptor.
//!
//! What waits for descriptors takes time-outs in whole milliseconds and rounds up: what is due in 0.3 ms comes after 1.

use pyo3::prelude::*;
use rustix::event::Timespec;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::io;

const PERIOD: i64 = 1_000_000;
const NEVER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

#[pyclass(module = "katzentwist._native")]
pub struct Marks(OwnedFd);

#[pymethods]
impl Marks {
    #[new]
    fn new() -> PyResult<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from)?;
        Ok(Marks(timer))
    }

    fn fileno(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// From the next full millisecond of the monotonic clock on.
    fn start(&self) -> PyResult<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let second = now.tv_nsec / PERIOD * PERIOD + PERIOD;
        self.set(Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: PERIOD,
            },
            it_value: Timespec {
                tv_sec: now.tv_sec + second / 1_000_000_000,
                tv_nsec: second % 1_000_000_000,
            },
        })
    }

    fn stop(&self) -> PyResult<()> {
        self.set(Itimerspec {
            it_interval: NEVER,
            it_value: NEVER,
        })
    }

    /// Whether a mark was passed since the last call.
    fn passed(&self) -> PyResult<bool> {
        match rustix::io::read(&self.0, &mut [0; 8]) {
            Ok(count) => Ok(count == 8),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

impl Marks {
    fn set(&self, times: Itimerspec) -> PyResult<()> {
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &times).map_err(io::Error::from)?;
        Ok(())
    }
}
