//! The in-process wire: frames go to a [`Server`] and answers come back; [`Framed`] makes a [`Link`] of it.
//!
//! Frames are passed by reference to the same memory: every message is encoded, measured and decoded, and every vector hashed
//! once, where it is made. A wire that hands on other memory, as [`crate::Faults`] does, is checked against the digests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use antiphon_core::ClientId;
use antiphon_protocol::wire::{decode_down, encode_down, encode_up_with};
use antiphon_protocol::{
    Closing, Coordinator, Down, Effect, Ending, Event, Frame, Gate, Link, LinkError, Log, LogError, Up,
};

use crate::{Clock, Meter};

/// Carries one frame and brings the answer.
pub trait Wire {
    /// One exchange.
    fn exchange(&mut self, from: ClientId, frame: Frame) -> Result<Frame, LinkError>;
}

/// A link over a wire: encodes, counts and decodes.
pub struct Framed<'a> {
    /// Whose link it is.
    pub id: ClientId,
    /// What carries the frames.
    pub wire: &'a mut dyn Wire,
    /// Counts what is sent.
    pub meter: &'a Meter,
    /// Length of the parameters in bytes.
    pub theta_bytes: usize,
    /// Whether updates travel without their zeros where that is shorter.
    pub sparse: bool,
}

impl std::fmt::Debug for Framed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framed({})", self.id)
    }
}

impl Link for Framed<'_> {
    fn call(&mut self, up: Up) -> Result<Down, LinkError> {
        let frame = encode_up_with(&up, self.sparse);
        self.meter.up(&frame);
        let answer = self.wire.exchange(self.id, frame)?;
        Ok(decode_down(&answer, self.theta_bytes)?)
    }
}

/// The coordinator's end of every wire: gate, coordinator and log.
pub struct Server<'a> {
    gate: Gate,
    meter: &'a Meter,
    clock: &'a dyn Clock,
    inner: Mutex<Inner<'a>>,
}

struct Inner<'a> {
    coordinator: Coordinator,
    log: &'a mut (dyn Log + Send),
    /// Effects for the driver, in order.
    asked: Vec<Asked>,
    /// Once the log cannot be written nothing is acknowledged any more.
    broken: Option<LogError>,
}

/// What the coordinator asks of the driver, as opposed to the wire.
#[derive(Debug)]
pub(crate) enum Asked {
    Close(Closing),
    RoundFailed { round: antiphon_core::Round, attempt: u32 },
    Finished(Ending),
}

impl std::fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl<'a> Server<'a> {
    /// A server over `coordinator`.
    pub fn new(
        gate: Gate,
        coordinator: Coordinator,
        log: &'a mut (dyn Log + Send),
        meter: &'a Meter,
        clock: &'a dyn Clock,
    ) -> Self {
        let inner = Inner { coordinator, log, asked: Vec::new(), broken: None };
        Self { gate, meter, clock, inner: Mutex::new(inner) }
    }

    /// Handles one frame: checks it on the calling thread, beside the coordinator, then lets the coordinator
    /// decide.
    pub fn serve(&self, from: ClientId, frame: &Frame) -> Result<Frame, LinkError> {
        let message = self.gate.open(frame);
        let down = self.tell(Event::Message { from, message })?;
        let down = down.ok_or(LinkError::Lost)?;
        let frame = encode_down(&down);
        self.meter.down(&frame);
        Ok(frame)
    }

    /// Tells the coordinator something and carries out its effects up to the driver's. `Ok(Some)` is the
    /// reply, if one was asked for.
    pub(crate) fn tell(&self, event: Event) -> Result<Option<Down>, LinkError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.broken.is_some() {
            return Err(LinkError::Closed("the event log cannot be written".into()));
        }
        let mut reply = None;
        for effect in inner.coordinator.handle(self.clock.now(), event) {
            let written = match &effect {
                Effect::Log(record) => inner.log.append(record),
                Effect::LogUpdate(record, update) => inner.log.append_update(record, update),
                _ => Ok(()),
            };
            if let Err(e) = written {
                inner.broken = Some(e);
                return Err(LinkError::Closed("the event log cannot be written".into()));
            }
            match effect {
                Effect::Log(_) | Effect::LogUpdate(..) => {}
                Effect::Reply(down) => reply = Some(down),
                Effect::Close(closing) => inner.asked.push(Asked::Close(closing)),
                Effect::RoundFailed { round, attempt } => {
                    inner.asked.push(Asked::RoundFailed { round, attempt });
                }
                Effect::Finished(ending) => inner.asked.push(Asked::Finished(ending)),
            }
        }
        Ok(reply)
    }

    /// What the driver has to do, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    /// Reads the coordinator.
    pub fn coordinator<T>(&self, read: impl FnOnce(&Coordinator) -> T) -> T {
        read(&self.lock().coordinator)
    }

    /// Why the log is broken, if it is.
    pub(crate) fn broken(&self) -> Option<LogError> {
        self.lock().broken.take()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<'a>> {
        // a panic elsewhere ends the run; the coordinator itself never stops half-way through a transition
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wire without faults.
impl Wire for &Server<'_> {
    fn exchange(&mut self, from: ClientId, frame: Frame) -> Result<Frame, LinkError> {
        self.serve(from, &frame)
    }
}
