//! Every registry of the workspace, for the generated reference and for `--help`.

use antiphon_core::Entry;

/// One line of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name in run files.
    pub id: &'static str,
    /// Defining reference.
    pub paper: &'static str,
    /// What it is.
    pub about: &'static str,
}

fn rows<T: ?Sized>(list: &[&Entry<T>]) -> Vec<Row> {
    list.iter().map(|e| Row { id: e.id, paper: e.paper, about: e.about }).collect()
}

/// Title and rows of every registry.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("`[method]`: what is trained", rows(antiphon_tune::METHODS)),
        ("`[emulator.rule]`: which layers clients hold of a model", rows(antiphon_model::emulator::RULES)),
        ("`[objective]`: what is minimised", rows(antiphon_tune::OBJECTIVES)),
        ("`[estimator]`: how the gradient arises", rows(antiphon_tune::ESTIMATORS)),
        ("`[optimizer]`: how a local step is taken", rows(antiphon_tune::OPTIMIZERS)),
        ("`[search]`: how a prompt is found without gradients", rows(antiphon_oracle::search::METHODS)),
        ("`[scalars]`: what travels instead of the trainable vector", rows(antiphon_tune::scalars::METHODS)),
        ("`[train.lr_scheduler]`: the learning rate over time", rows(antiphon_tune::SCHEDULES)),
        ("`[data.partition]`: who holds which example", rows(antiphon_data::PARTITIONERS)),
        ("`aggregation.layers`: stages between a client's work and the sum", rows(antiphon_algo::LAYERS)),
        ("`aggregation.reducer`: how many vectors become one", rows(antiphon_algo::REDUCERS)),
        ("`[server]`: what the server does with the aggregate", rows(antiphon_algo::SERVER_STEPS)),
    ]
}
