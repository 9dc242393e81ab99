//! Laws of perturbations, for every family, task and method.

use antiphon_kernels::{Backend, Cpu, Law, Reference};
use antiphon_model::{Mode, Net, NetError, Perturbation, Workspace};

use crate::common::{Random, download, fill, net, theta, upload};
use crate::laws::{SHAPE, each, loss};

const LAWS: [Law; 2] = [Law::Gaussian, Law::Rademacher];

/// The mean loss of the test batch as `noise` shows the parameters.
fn seen<B: Backend>(
    b: &B,
    net: &Net<B>,
    params: &B::Buf,
    ws: &mut Workspace<B>,
    noise: Option<Perturbation>,
) -> f64 {
    let mut batch = net.batch();
    fill(&mut batch);
    ws.perturb(noise);
    let l = loss(b, net, params, &batch, ws, None);
    l.nll / l.rows as f64
}

/// A perturbed pass computes the loss of the perturbed vector, and leaves the vector as it was.
fn is_the_loss_there<B: Backend>(b: &B, tolerance: f64) {
    each(|name, spec, task, wiring| {
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let net = net(b, spec, task, wiring.clone());
        let mut ws = net.workspace(b, SHAPE, Mode::Infer).unwrap();
        let params = upload(b, &start);
        let plain = seen(b, &net, &params, &mut ws, None);
        for law in LAWS {
            let noise = Perturbation::new(&wiring.schema, law).at(11, 0.03);
            let found = seen(b, &net, &params, &mut ws, Some(noise.clone()));
            assert_eq!(download(b, &params), start, "{name}: the vector was written");
            let mut moved = upload(b, &start);
            noise.apply(b, &mut moved);
            let expected = seen(b, &net, &moved, &mut ws, None);
            assert!(
                (found - expected).abs() < tolerance * expected,
                "{name} {law:?}: {found} for {expected}"
            );
            assert!((found - plain).abs() > 1e-9 * plain, "{name} {law:?}: nothing was perturbed");
        }
    });
}

#[test]
fn a_perturbed_pass_is_a_pass_at_the_perturbed_vector() {
    is_the_loss_there(&Reference, 1e-12);
    is_the_loss_there(&Cpu::serial(), 2e-6);
}

/// `(L(θ + εz) - L(θ - εz)) / 2ε` is the derivative along `z` that backpropagation gives.
#[test]
fn the_projected_gradient_is_the_directional_derivative() {
    each(|name, spec, task, mut wiring| {
        // a mask of dropout would make two losses of one vector
        wiring.lora.values_mut().for_each(|p| p.dropout = 0.0);
        let start = theta(&Random { spec: spec.clone(), task }, &wiring);
        let b = Reference;
        let net = net(&b, spec, task, wiring.clone());
        let mut batch = net.batch();
        fill(&mut batch);
        let (params, mut grads) = (upload(&b, &start), b.alloc(start.len()).unwrap());
        let mut train = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        loss(&b, &net, &params, &batch, &mut train, Some(&mut grads));
        let mut ws = net.workspace(&b, SHAPE, Mode::Infer).unwrap();
        for law in LAWS {
            let noise = Perturbation::new(&wiring.schema, law);
            let mut z = b.alloc(start.len()).unwrap();
            noise.at(5, 1.0).apply(&b, &mut z);
            let exact: f64 = z.values().iter().zip(grads.values()).map(|(z, g)| z * g).sum();
            let eps = 1e-6_f32;
            let mut at = |scale: f32| seen(&b, &net, &params, &mut ws, Some(noise.at(5, scale)));
            let estimate = (at(eps) - at(-eps)) / (2.0 * f64::from(eps));
            let scale = exact.abs().max(estimate.abs()).max(1e-2);
            assert!((exact - estimate).abs() / scale < 1e-5, "{name} {law:?}: {estimate} for {exact}");
        }
        // the vector was never written, so it is still what it was to the last bit
        assert_eq!(download(&b, &params), start, "{name}");
    });
}

#[test]
fn the_number_of_threads_changes_no_bit_of_a_perturbed_loss() {
    let bits = |threads: usize| {
        let b = Cpu::threads(threads);
        let mut all = Vec::new();
        each(|_, spec, task, wiring| {
            let start = theta(&Random { spec: spec.clone(), task }, &wiring);
            let net = net(&b, spec, task, wiring.clone());
            let mut ws = net.workspace(&b, SHAPE, Mode::Infer).unwrap();
            let noise = Perturbation::new(&wiring.schema, Law::Gaussian).at(3, 1e-2);
            let mut params = upload(&b, &start);
            all.push(seen(&b, &net, &params, &mut ws, Some(noise.clone())).to_bits());
            noise.apply(&b, &mut params);
            all.extend(download(&b, &params).iter().map(|v| u64::from(v.to_bits())));
        });
        all
    };
    let one = bits(1);
    for threads in [2, 4] {
        assert!(one == bits(threads), "{threads} threads");
    }
}

#[test]
fn a_workspace_for_training_is_refused() {
    let mut refused = 0;
    each(|_, spec, task, wiring| {
        if refused > 0 {
            return;
        }
        let b = Cpu::serial();
        let net = net(&b, spec, task, wiring.clone());
        let mut batch = net.batch();
        fill(&mut batch);
        let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
        let params = upload(&b, &theta(&Random { spec: spec.clone(), task }, &wiring));
        ws.perturb(Some(Perturbation::new(&wiring.schema, Law::Gaussian)));
        let e = net.forward(&b, &params, &batch, &mut ws, None).unwrap_err();
        assert!(matches!(e, NetError::Training));
        refused += 1;
    });
    assert_eq!(refused, 1);
}
