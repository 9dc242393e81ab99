//! `Plan -> Checked -> Tally`: a composition is declared, checked once, and only then run.

use std::fmt;
use std::sync::Arc;

use antiphon_core::{ClientId, Digest, Noise, Payload, Round, Schema, Weight};

use crate::layer::carrier_of;
use crate::vector::{finite, finite_reals_on};
use crate::{
    Accumulator, Carrier, ClientCx, Contract, GaussianEvent, Layer, LayerError, Mismatch, ReduceError,
    Reducer, Scan, ServerCx, State, View,
};

/// A declared composition. It can do nothing but be checked.
#[derive(Debug)]
pub struct Plan {
    /// Outermost (nearest the model) first.
    pub layers: Vec<Box<dyn Layer>>,
    /// Innermost.
    pub reducer: Box<dyn Reducer>,
}

impl Plan {
    /// Every stage with its settings, one a line, outermost first.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut lines: Vec<String> = self.layers.iter().map(|l| l.describe()).collect();
        lines.push(self.reducer.describe());
        lines.join("\n")
    }

    /// Threads the contract through every stage, beginning with the `d` real coordinates of `schema`.
    pub fn check(self, schema: &Schema) -> Result<Checked, Mismatch> {
        let description = self.describe();
        let mut c = Contract {
            carrier: Carrier::Real,
            len: schema.dim(),
            summable: true,
            l2: None,
            view: View::PerClient,
            weighted: false,
        };
        let mut stages = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            let next = layer.contract(&c)?;
            stages.push((std::mem::replace(&mut c, next), layer));
        }
        self.reducer.accepts(&c)?;
        Ok(Checked(Arc::new(Inner {
            stages,
            reducer: self.reducer,
            wire: c,
            digest: Digest::of(format!("antiphon plan 1\n{description}").as_bytes()),
            description,
            schema: schema.clone(),
            schema_digest: schema.digest(),
        })))
    }
}

/// A composition whose stages fit: the only thing that can encode or tally. Cloning shares it.
#[derive(Clone)]
pub struct Checked(Arc<Inner>);

struct Inner {
    /// Each layer with the contract it was promised.
    stages: Vec<(Contract, Box<dyn Layer>)>,
    reducer: Box<dyn Reducer>,
    /// What arrives at the server.
    wire: Contract,
    description: String,
    digest: Digest,
    schema: Schema,
    schema_digest: Digest,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked({})", self.0.description.replace('\n', " | "))
    }
}

/// The memory of each layer, outermost first: one `Slots` per client, and one of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slots(pub Vec<State>);

impl Slots {
    /// True when no layer remembers anything, so that there is nothing to save.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(State::is_empty)
    }
}

/// One client's vector that the server has checked. Made by [`Checked::admit`] alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    payload: Payload,
    norm: Option<f64>,
}

impl Admitted {
    /// What was checked.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The l2 norm of this client's contribution in the units of the model, where the server can know it.
    #[must_use]
    pub fn norm(&self) -> Option<f64> {
        self.norm
    }
}

impl Checked {
    /// Every stage with its settings, one a line, outermost first.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.0.description
    }

    /// Identifies every stage and setting: equal on two machines if and only if they run the same plan.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// What is trained.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.0.schema
    }

    /// Its digest, computed once.
    #[must_use]
    pub fn schema_digest(&self) -> Digest {
        self.0.schema_digest
    }

    /// What each client puts on the wire.
    #[must_use]
    pub fn wire(&self) -> &Contract {
        &self.0.wire
    }

    /// Bytes of one client's vector on the wire, without its message.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        self.0.wire.len
            * match self.0.wire.carrier {
                Carrier::Real => 4,
                Carrier::Ring => 8,
            }
    }

    /// What one round costs: the input of the accountant.
    pub fn privacy(&self) -> impl Iterator<Item = GaussianEvent> {
        self.0.stages.iter().filter_map(|(_, l)| l.privacy())
    }

    /// Empty memory for every layer, as at the start of a run.
    #[must_use]
    pub fn slots(&self) -> Slots {
        Slots(vec![State::new(); self.0.stages.len()])
    }

    /// What a client that declares `weight` counts in the aggregate: 1 unless a layer weights.
    #[must_use]
    pub fn counts(&self, weight: Weight) -> f64 {
        self.0.stages.iter().find_map(|(_, l)| l.counts(weight)).unwrap_or(1.0)
    }

    /// The whole client half: `delta: [d]`, the result as [`Checked::wire`] says. `slots` are this
    /// client's; keep the old ones until the server has accepted the update.
    pub fn encode(
        &self,
        delta: Vec<f32>,
        cx: &ClientCx<'_>,
        slots: &mut Slots,
    ) -> Result<Payload, LayerError> {
        let expected = self.0.schema.dim();
        if delta.len() != expected {
            return Err(LayerError::Length { layer: "local work", expected, found: delta.len() });
        }
        slots.0.resize_with(self.0.stages.len(), State::new);
        self.0
            .stages
            .iter()
            .zip(&mut slots.0)
            .try_fold(Payload::Real(delta), |x, ((up, layer), slot)| layer.client(x, up, cx, slot))
    }

    /// A scan of what [`Checked::admit_scanned`] needs to know.
    #[must_use]
    pub fn scan(&self) -> Scan {
        Scan::new(self.0.wire.carrier == Carrier::Real)
    }

    /// Checks what one client sent, declaring `weight`, against the contract, and decodes it where a
    /// layer does so per client. Depends on nothing but its arguments, so any thread may do it.
    pub fn admit(&self, x: Payload, weight: Weight) -> Result<Admitted, LayerError> {
        let mut scan = self.scan();
        match &x {
            Payload::Real(v) => scan.reals(v),
            Payload::RealBytes(b) => scan.bytes(b),
            Payload::Ring(_) => {}
        }
        self.admit_scanned(x, &scan, weight)
    }

    /// [`Checked::admit`] by a caller that has put all of `x` through [`Checked::scan`] already (nothing, for
    /// ring coordinates).
    pub fn admit_scanned(&self, x: Payload, scan: &Scan, weight: Weight) -> Result<Admitted, LayerError> {
        let wire = &self.0.wire;
        if carrier_of(&x) != wire.carrier {
            return Err(LayerError::Carrier { layer: "wire", expected: wire.carrier, found: carrier_of(&x) });
        }
        if x.len() != wire.len {
            return Err(LayerError::Length { layer: "wire", expected: wire.len, found: x.len() });
        }
        if !scan.is_finite() {
            finite(&x)?;
        }
        if let (Some(found), Some(bound), Carrier::Real) = (scan.norm(), wire.l2, wire.carrier)
            && found > bound
        {
            return Err(LayerError::Norm { bound, found });
        }
        if let Some((up, layer)) = self.0.stages.last()
            && wire.view == View::PerClient
        {
            layer.inspect(&x, up, weight)?;
        }
        let visible = wire.carrier == Carrier::Real && wire.view == View::PerClient;
        let sent = scan.norm().filter(|_| visible);
        let norm = sent.and_then(|sent| {
            self.0.stages.iter().rev().try_fold(sent, |n, (_, layer)| layer.norm(n, weight))
        });
        let payload = self.0.stages.iter().rev().try_fold(x, |x, (up, layer)| layer.each(x, up))?;
        Ok(Admitted { payload, norm })
    }

    /// Opens the server half of one round for `cohort`.
    #[must_use]
    pub fn open(&self, cohort: &[ClientId]) -> Tally {
        let mut order = cohort.to_vec();
        order.sort_unstable();
        order.dedup();
        Tally {
            plan: self.clone(),
            acc: self.0.reducer.start(&self.0.wire),
            seats: order.iter().map(|_| Seat::Empty).collect(),
            order,
            next: 0,
            accepted: 0,
        }
    }

    /// What the aggregate would be were `x` the only update: one client's contribution in the units of
    /// the model, `[d]`, for diagnostics. `None` where the server sees no clients or adds noise.
    #[must_use]
    pub fn alone(&self, x: &Admitted) -> Option<Vec<f32>> {
        if self.0.wire.view == View::SumOnly || self.privacy().next().is_some() {
            return None;
        }
        let one = ClientId(0);
        let mut tally = self.open(&[one]);
        tally.accept(one, x.clone()).ok()?;
        let mut cx = ServerCx { round: Round(0), accepted: 1, noise: &mut Unused, threads: 1 };
        tally.close(&mut cx, &mut self.slots()).ok()
    }
}

/// Stands where no layer draws noise, which `Checked::alone` has made sure of.
struct Unused;

impl Noise for Unused {
    fn standard_normal(&mut self) -> f64 {
        0.0
    }
}

/// One round being tallied at the server. Updates may arrive in any order and are added in ascending
/// order of client, each as soon as all before it have arrived or been skipped. [`Tally::close`] consumes
/// the tally, so a closed round cannot take another update.
pub struct Tally {
    plan: Checked,
    acc: Box<dyn Accumulator>,
    /// The cohort, ascending.
    order: Vec<ClientId>,
    /// One per client of `order`.
    seats: Vec<Seat>,
    /// The first seat that has not been added or passed over.
    next: usize,
    accepted: usize,
}

enum Seat {
    Empty,
    Held(Payload),
    /// Added already, or never will be.
    Done,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tally({} of {} accepted)", self.accepted, self.order.len())
    }
}

/// An update that a tally does not take. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TallyError {
    /// Not one of the round's clients.
    #[error("{0} is not in the cohort of this round")]
    Stranger(ClientId),
    /// Counted or skipped already.
    #[error("{0} was counted or skipped in this round already")]
    Twice(ClientId),
    /// The reducer.
    #[error(transparent)]
    Reduce(#[from] ReduceError),
}

/// Why a round has no aggregate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// A layer's server half.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The reducer.
    #[error(transparent)]
    Reduce(#[from] ReduceError),
}

impl Tally {
    /// Updates accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    fn seat(&self, client: ClientId) -> Result<usize, TallyError> {
        let i = self.order.binary_search(&client).map_err(|_| TallyError::Stranger(client))?;
        match self.seats[i] {
            Seat::Empty => Ok(i),
            Seat::Held(_) | Seat::Done => Err(TallyError::Twice(client)),
        }
    }

    /// Accepts the update of `client`.
    pub fn accept(&mut self, client: ClientId, x: Admitted) -> Result<(), TallyError> {
        let i = self.seat(client)?;
        self.seats[i] = Seat::Held(x.payload);
        self.accepted += 1;
        self.advance()
    }

    /// Says that `client` will not answer in this round, so that those after it need not be held.
    pub fn skip(&mut self, client: ClientId) -> Result<(), TallyError> {
        let i = self.seat(client)?;
        self.seats[i] = Seat::Done;
        self.advance()
    }

    fn advance(&mut self) -> Result<(), TallyError> {
        while let Some(seat) = self.seats.get_mut(self.next) {
            match std::mem::replace(seat, Seat::Done) {
                Seat::Empty => {
                    *seat = Seat::Empty;
                    break;
                }
                Seat::Held(x) => self.acc.add(x)?,
                Seat::Done => {}
            }
            self.next += 1;
        }
        Ok(())
    }

    /// The aggregate, `[d]`, finite. `slots` are the server's.
    pub fn close(mut self, cx: &mut ServerCx<'_>, slots: &mut Slots) -> Result<Vec<f32>, RoundError> {
        for seat in self.seats.drain(..) {
            if let Seat::Held(x) = seat {
                self.acc.add(x)?;
            }
        }
        let stages = &self.plan.0.stages;
        slots.0.resize_with(stages.len(), State::new);
        let y = self.acc.finish(cx.threads)?;
        let y = stages
            .iter()
            .zip(&mut slots.0)
            .rev()
            .try_fold(y, |y, ((up, layer), slot)| layer.sum(y, up, cx, slot))?;
        let y = crate::layer::real("the outermost layer", y)?;
        finite_reals_on(cx.threads, &y)?;
        let expected = self.plan.0.schema.dim();
        if y.len() != expected {
            return Err(LayerError::Length { layer: "the outermost layer", expected, found: y.len() }.into());
        }
        Ok(y)
    }
}
