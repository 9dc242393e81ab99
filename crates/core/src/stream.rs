//! Random streams keyed by what they are for, never by who asks first.

use crate::ids::{ClientId, Round};
use crate::philox;

/// What a stream is used for. Adding one never changes the numbers of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Initial values of trainable tensors, and of models made from a configuration alone.
    Init,
    /// Which clients take part in a round.
    Sampling,
    /// How data are divided among clients.
    Partition,
    /// Division of one client's data into train, validation and test.
    Split,
    /// Order of examples in local training.
    Shuffle,
    /// Dropout masks.
    Dropout,
    /// Directions in which weights are perturbed.
    Perturbation,
    /// Sampling tokens in generation.
    Generate,
    /// Synthetic data.
    Synthesis,
    /// Candidates of a search without gradients.
    Search,
    /// Faults of a simulated network.
    Faults,
    /// Pauses before a request is sent again.
    Backoff,
    /// Anything in a test.
    Test,
}

/// A source of independent standard normal samples.
pub trait Noise {
    /// One sample of N(0, 1).
    fn standard_normal(&mut self) -> f64;
}

/// A stream of random words: Philox4x32-10 under a key derived by BLAKE3 from
/// `(seed, purpose, round, client, tensor)`. Word `i` is a pure function of the key and `i`.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// High half of the counter: a stream of streams.
    high: u64,
    /// Index of the next word.
    next: u64,
    buffer: [u32; 4],
}

impl Stream {
    /// The stream of `purpose` under `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self::keyed(seed, purpose, None, None, "")
    }

    /// The stream of `purpose` in `round`, at `client`, for the tensor called `tensor`.
    #[must_use]
    pub fn keyed(
        seed: u64,
        purpose: Purpose,
        round: Option<Round>,
        client: Option<ClientId>,
        tensor: &str,
    ) -> Self {
        let mut h = blake3::Hasher::new();
        h.update(b"antiphon stream 1");
        h.update(&seed.to_le_bytes());
        h.update(format!("{purpose:?}").as_bytes());
        h.update(&round.map_or(u64::MAX, |r| u64::from(r.0)).to_le_bytes());
        h.update(&[u8::from(client.is_some())]);
        h.update(&client.map_or(0, |c| c.0).to_le_bytes());
        h.update(tensor.as_bytes());
        let bytes = h.finalize();
        let word = |i: usize| {
            let b = bytes.as_bytes();
            u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]])
        };
        Self { key: [word(0), word(1)], high: 0, next: 0, buffer: [0; 4] }
    }

    /// The `index`-th independent substream, from its beginning.
    #[must_use]
    pub fn substream(&self, index: u64) -> Self {
        Self { key: self.key, high: index.wrapping_add(1), next: 0, buffer: [0; 4] }
    }

    /// Words `2 i` and `2 i + 1` of the stream as one, low word first, without moving it.
    #[must_use]
    pub fn word_pair(&self, i: u64) -> u64 {
        let (index, lane) = (i / 2, 2 * (i % 2) as usize);
        let counter = [index as u32, (index >> 32) as u32, self.high as u32, (self.high >> 32) as u32];
        let block = philox::block(self.key, counter);
        u64::from(block[lane]) | u64::from(block[lane + 1]) << 32
    }

    /// The 64-bit key, for kernels that make their own masks with [`philox::block`].
    #[must_use]
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        let (index, lane) = (self.next / 4, (self.next % 4) as usize);
        if lane == 0 {
            let counter = [index as u32, (index >> 32) as u32, self.high as u32, (self.high >> 32) as u32];
            self.buffer = philox::block(self.key, counter);
        }
        self.next += 1;
        self.buffer[lane]
    }

    /// The next two words, low word first.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform on `[0, 1)`, 24 bits.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform on `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform on `0..n` without bias (Lemire 2019, arXiv:1805.10941, Algorithm 5). Zero when `n == 0`.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            // 2^64 mod n: the words below it would be counted once too often
            if (wide as u64) >= n.wrapping_neg() % n {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A uniform permutation in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// `k` distinct indices below `n`, ascending; all of them when `k >= n`.
    pub fn choose(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        self.shuffle(&mut all);
        all.truncate(k);
        all.sort_unstable();
        all
    }

    /// Gamma(shape, 1) (Marsaglia and Tsang 2000; below shape 1 by the power of a uniform, section 6).
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let u = 1.0 - self.uniform();
            return self.gamma(shape + 1.0) * u.powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.standard_normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.uniform();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// One draw of the Dirichlet distribution with the given concentrations. Sums to 1; where every
    /// gamma underflows (concentrations far below 1) one category gets everything.
    pub fn dirichlet(&mut self, alpha: &[f64]) -> Vec<f64> {
        let mut p: Vec<f64> = alpha.iter().map(|&a| self.gamma(a)).collect();
        let total: f64 = p.iter().sum();
        if total > 0.0 {
            p.iter_mut().for_each(|v| *v /= total);
        } else if !p.is_empty() {
            let i = self.below(p.len() as u64) as usize;
            p[i] = 1.0;
        }
        p
    }
}

impl Noise for Stream {
    /// Box and Muller 1958, cosine branch; two uniforms a sample, so that sample `i` needs no state.
    fn standard_normal(&mut self) -> f64 {
        let u = 1.0 - self.uniform();
        let v = self.uniform();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_part_of_the_key() {
        let first = |mut s: Stream| s.next_u64();
        let base = first(Stream::keyed(1, Purpose::Test, None, None, ""));
        let others = [
            Stream::keyed(2, Purpose::Test, None, None, ""),
            Stream::keyed(1, Purpose::Init, None, None, ""),
            Stream::keyed(1, Purpose::Test, Some(Round(0)), None, ""),
            Stream::keyed(1, Purpose::Test, None, Some(ClientId(0)), ""),
            Stream::keyed(1, Purpose::Test, None, None, "x"),
            Stream::new(1, Purpose::Test).substream(0),
        ];
        for s in others {
            assert_ne!(first(s), base);
        }
    }

    #[test]
    fn a_pair_of_words_is_what_the_stream_gives() {
        let mut s = Stream::new(4, Purpose::Test).substream(9);
        let fixed = s.clone();
        for i in 0..9 {
            assert_eq!(fixed.word_pair(i), s.next_u64());
        }
    }

    #[test]
    fn moments_are_those_of_the_laws() {
        let mut s = Stream::new(7, Purpose::Test);
        let n = 40_000;
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let var = |v: &[f64]| mean(&v.iter().map(|x| (x - mean(v)).powi(2)).collect::<Vec<_>>());
        let z: Vec<f64> = (0..n).map(|_| s.standard_normal()).collect();
        assert!(mean(&z).abs() < 0.02 && (var(&z) - 1.0).abs() < 0.03);
        for shape in [0.3, 2.5] {
            let g: Vec<f64> = (0..n).map(|_| s.gamma(shape)).collect();
            assert!((mean(&g) - shape).abs() < 0.05 && (var(&g) - shape).abs() < 0.15, "gamma {shape}");
        }
    }

    #[test]
    fn shuffle_and_choose_are_permutations() {
        let mut s = Stream::new(3, Purpose::Test);
        let mut v: Vec<usize> = (0..50).collect();
        s.shuffle(&mut v);
        let mut sorted = v.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_ne!(v, sorted);
        let c = s.choose(10, 4);
        assert_eq!(c.len(), 4);
        assert!(c.windows(2).all(|w| w[0] < w[1]) && c[3] < 10);
        assert_eq!(s.choose(3, 9), vec![0, 1, 2]);
    }

    #[test]
    fn a_dirichlet_draw_sums_to_one_even_when_every_gamma_underflows() {
        let mut s = Stream::new(5, Purpose::Test);
        for alpha in [1e-9, 0.1, 10.0] {
            let p = s.dirichlet(&[alpha; 7]);
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{alpha}: {p:?}");
        }
    }
}
