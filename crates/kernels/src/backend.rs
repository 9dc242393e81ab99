//! The seam between models and devices: a list of blocks over buffers.
//!
//! Conventions, for every block:
//! - `n` is the number of token rows; a matrix is row-major `[rows, cols]` unless a [`Layout`] says otherwise.
//! - Tensors live in device buffers ([`Src`], [`Dst`]). Control data (token ids, row indices, segments,
//!   labels) are host slices, which a device copies with the launch.
//! - `add: true` means `y += …`, `false` means `y = …`. Gradients of parameters always accumulate.
//! - Sums run in an order fixed by the shapes, never by the number of threads, so results are the same
//!   bits on 1 thread or 8.
//! - Blocks do not fail: a caller that passes a view of the wrong length has a bug, and the block panics
//!   with both lengths. Only allocation and transfer, where data meets the device, return errors; a device
//!   that fails asynchronously reports at the next [`Backend::download`].

pub use crate::args::{AdamW, AttnShape, Coef, Dropout, Gelu, Law, Loss, Noise, Segment, Sgd};
pub use crate::frozen::{DType, FrozenData};

/// Allocation or transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No memory for a buffer.
    #[error("cannot allocate {bytes} bytes on {device}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Which device.
        device: &'static str,
    },
    /// Two sides of a copy differ in length.
    #[error("a transfer of {from} elements into {to}")]
    Length {
        /// Elements at the source.
        from: usize,
        /// Elements at the destination.
        to: usize,
    },
}

/// `len` elements of a buffer, read.
#[derive(Debug)]
pub struct Src<'a, T> {
    /// The buffer.
    pub buf: &'a T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

impl<T> Clone for Src<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Src<'_, T> {}

impl<'a, T> Src<'a, T> {
    /// Elements `at .. at + len` of `buf`.
    pub fn new(buf: &'a T, at: usize, len: usize) -> Self {
        Self { buf, at, len }
    }
}

/// `len` elements of a buffer, written.
#[derive(Debug)]
pub struct Dst<'a, T> {
    /// The buffer.
    pub buf: &'a mut T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

impl<'a, T> Dst<'a, T> {
    /// Elements `at .. at + len` of `buf`.
    pub fn new(buf: &'a mut T, at: usize, len: usize) -> Self {
        Self { buf, at, len }
    }
}

/// How a weight of `d_out × d_in` lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[d_out, d_in]`: PyTorch `Linear`.
    OutIn,
    /// `[d_in, d_out]`: GPT-2 `Conv1D`.
    InOut,
}

/// A parameter: frozen in the checkpoint's element type, or live in a buffer of trainables.
#[derive(Debug)]
pub enum Mat<'a, B: Backend> {
    /// Shared and read-only.
    Frozen(&'a B::Frozen),
    /// Trainable.
    Live(Src<'a, B::Buf>),
    /// Trainable and seen through a perturbation: `w + scale · z`, made on the way into the block and stored nowhere. Forward
    /// blocks take it; a gradient block that is given one has a caller with a bug.
    Noisy(Src<'a, B::Buf>, Noise),
}

impl<B: Backend> Clone for Mat<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Mat<'_, B> {}

/// `y = x W^T + b`.
#[derive(Debug)]
pub struct Linear<'a, B: Backend> {
    /// `d_out × d_in` in `layout`.
    pub w: Mat<'a, B>,
    /// `[d_out]`.
    pub bias: Option<Mat<'a, B>>,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
    /// Memory order of `w`.
    pub layout: Layout,
}

impl<B: Backend> Clone for Linear<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Linear<'_, B> {}

/// A device with its buffers and blocks.
///
/// Implementations: [`crate::Cpu`] (binary32, the fast one) and [`crate::Reference`] (binary64 loops, the one that
/// tests believe). A CUDA device is one more.
pub trait Backend: Send + Sync + Sized + std::fmt::Debug + 'static {
    /// A resizable-never buffer of real numbers.
    type Buf: Send + Sync + std::fmt::Debug;
    /// A read-only tensor in its stored element type.
    type Frozen: Send + Sync + std::fmt::Debug;

    /// Name for reports, such as `cpu`.
    fn name(&self) -> &'static str;
    /// What fixes the bits of a result: instruction class and blocking, such as `fma-kc256`. Two
    /// machines with the same profile compute the same bits.
    fn profile(&self) -> String;

    /// A buffer of `len` zeros.
    fn alloc(&self, len: usize) -> Result<Self::Buf, BackendError>;
    /// Elements in `buf`.
    fn len(&self, buf: &Self::Buf) -> usize;
    /// Host to device.
    fn upload(&self, host: &[f32], dst: Dst<'_, Self::Buf>) -> Result<(), BackendError>;
    /// Device to host; waits for all blocks before it.
    fn download(&self, src: Src<'_, Self::Buf>, host: &mut [f32]) -> Result<(), BackendError>;
    /// Makes a frozen tensor readable by the device; the CPU only keeps the reference.
    fn freeze(&self, data: FrozenData) -> Result<Self::Frozen, BackendError>;
    /// Widens a frozen tensor into a buffer (a client that tunes full weights starts so).
    fn thaw(&self, src: &Self::Frozen, dst: Dst<'_, Self::Buf>);

    // ---- elementwise ------------------------------------------------------------------------------
    /// `y = value`.
    fn fill(&self, y: Dst<'_, Self::Buf>, value: f32);
    /// `y (+)= alpha · x`.
    fn axpy(&self, alpha: f32, x: Src<'_, Self::Buf>, y: Dst<'_, Self::Buf>, add: bool);
    /// `y = alpha · y`; gradient clipping.
    fn scale(&self, alpha: f32, y: Dst<'_, Self::Buf>);
    /// `y = y + scale · z`: an update along a direction that is never stored.
    fn add_noise(&self, noise: Noise, y: Dst<'_, Self::Buf>);
    /// `Σ x²`, accumulated in binary64.
    fn sum_squares(&self, x: Src<'_, Self::Buf>) -> f64;
    /// `y (+)= mask ⊙ x / (1 - p)`.
    fn dropout(&self, x: Src<'_, Self::Buf>, mask: Dropout, y: Dst<'_, Self::Buf>, add: bool);
    /// `y = tanh x`.
    fn tanh(&self, x: Src<'_, Self::Buf>, y: Dst<'_, Self::Buf>);
    /// `dx (+)= dy (1 - y²)`, from the output `y`.
    fn tanh_grad(&self, y: Src<'_, Self::Buf>, dy: Src<'_, Self::Buf>, dx: Dst<'_, Self::Buf>, add: bool);
    /// `y = gelu x`.
    fn gelu(&self, kind: Gelu, x: Src<'_, Self::Buf>, y: Dst<'_, Self::Buf>);
    /// `dx = dy gelu'(x)`.
    fn gelu_grad(&self, kind: Gelu, x: Src<'_, Self::Buf>, dy: Src<'_, Self::Buf>, dx: Dst<'_, Self::Buf>);
    /// `y = silu(gate) ⊙ up` (arXiv:2002.05202).
    fn swiglu(&self, gate: Src<'_, Self::Buf>, up: Src<'_, Self::Buf>, y: Dst<'_, Self::Buf>);
    /// Gradients of [`Backend::swiglu`] for both inputs.
    fn swiglu_grad(
        &self,
        gate: Src<'_, Self::Buf>,
        up: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        dgate: Dst<'_, Self::Buf>,
        dup: Dst<'_, Self::Buf>,
    );

    // ---- rows and columns -------------------------------------------------------------------------
    /// `y[to[i]] (+)= x[from[i]]` for rows of `width`, in order of `i`; gathers, scatters and soft prompts.
    fn rows(
        &self,
        x: Src<'_, Self::Buf>,
        from: &[u32],
        y: Dst<'_, Self::Buf>,
        to: &[u32],
        width: usize,
        add: bool,
    );
    /// `y[:, y_col .. y_col + cols] (+)= x[:, x_col .. x_col + cols]` for `n` rows of `x_width` and `y_width`.
    fn columns(
        &self,
        x: Src<'_, Self::Buf>,
        x_width: usize,
        x_col: usize,
        y: Dst<'_, Self::Buf>,
        y_width: usize,
        y_col: usize,
        cols: usize,
        add: bool,
    );
    /// Mean over each segment's query rows: `y: [segments, width]`.
    fn mean_pool(&self, x: Src<'_, Self::Buf>, segments: &[Segment], width: usize, y: Dst<'_, Self::Buf>);
    /// Gradient of [`Backend::mean_pool`]: `dx = dy / len` on each segment's rows, zero elsewhere.
    fn mean_pool_grad(
        &self,
        dy: Src<'_, Self::Buf>,
        segments: &[Segment],
        width: usize,
        dx: Dst<'_, Self::Buf>,
    );

    // ---- embedding --------------------------------------------------------------------------------
    /// `y[i] (+)= table[ids[i]]`; `table: [vocab, width]`. An id of `u32::MAX` contributes zeros.
    fn embedding(&self, ids: &[u32], table: Mat<'_, Self>, width: usize, y: Dst<'_, Self::Buf>, add: bool);
    /// `dtable[ids[i]] += dy[i]`, in order of `i`; ids of `u32::MAX` are skipped.
    fn embedding_grad(&self, ids: &[u32], dy: Src<'_, Self::Buf>, width: usize, dtable: Dst<'_, Self::Buf>);

    // ---- linear maps ------------------------------------------------------------------------------
    /// `y (+)= x W^T + b`; `x: [n, d_in]`, `y: [n, d_out]`.
    fn linear(&self, x: Src<'_, Self::Buf>, map: Linear<'_, Self>, y: Dst<'_, Self::Buf>, add: bool);
    /// `dx (+)= dy W`.
    fn linear_dx(&self, dy: Src<'_, Self::Buf>, map: Linear<'_, Self>, dx: Dst<'_, Self::Buf>, add: bool);
    /// `dW += dy^T x` in the given layout.
    fn linear_dw(
        &self,
        x: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        d_in: usize,
        d_out: usize,
        layout: Layout,
        dw: Dst<'_, Self::Buf>,
    );
    /// `db += Σ_rows dy`; `dy: [n, width]`.
    fn bias_grad(&self, dy: Src<'_, Self::Buf>, width: usize, db: Dst<'_, Self::Buf>);
    /// Low-rank overlay (arXiv:2106.09685, equation 3): `xa = x A^T` (kept for the gradient), `y += scale · xa B^T`.
    /// `a: [r, d_in]`, `b: [d_out, r]`, `xa: [n, r]`.
    fn lora(
        &self,
        x: Src<'_, Self::Buf>,
        a: Src<'_, Self::Buf>,
        b: Src<'_, Self::Buf>,
        rank: usize,
        scale: f32,
        xa: Dst<'_, Self::Buf>,
        y: Dst<'_, Self::Buf>,
    );
    /// Gradients of [`Backend::lora`]. `dxa: [n, r]` is scratch and receives `scale · dy B`. `grads` holds `dA` at
    /// `a_at` and `dB` at `b_at`, both accumulated; `dx`, if given, is accumulated too.
    fn lora_grad(
        &self,
        x: Src<'_, Self::Buf>,
        xa: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        a: Src<'_, Self::Buf>,
        b: Src<'_, Self::Buf>,
        rank: usize,
        scale: f32,
        dxa: Dst<'_, Self::Buf>,
        grads: &mut Self::Buf,
        a_at: usize,
        b_at: usize,
        dx: Option<Dst<'_, Self::Buf>>,
    );

    // ---- normalisation ----------------------------------------------------------------------------
    /// `y = x / rms(x) · w` (arXiv:1910.07467); `x, y: [n, width]`; keeps `1/rms` in `inv: [n]`.
    fn rms_norm(
        &self,
        x: Src<'_, Self::Buf>,
        w: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, Self::Buf>,
        inv: Dst<'_, Self::Buf>,
    );
    /// Gradients of [`Backend::rms_norm`]; `dw`, if given, accumulates.
    fn rms_norm_grad(
        &self,
        x: Src<'_, Self::Buf>,
        w: Mat<'_, Self>,
        width: usize,
        inv: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        dx: Dst<'_, Self::Buf>,
        add: bool,
        dw: Option<Dst<'_, Self::Buf>>,
    );
    /// `y = (x - mean) / sqrt(var + eps) · w + b` (arXiv:1607.06450); keeps `(mean, 1/std)` pairs in `stats: [n, 2]`.
    fn layer_norm(
        &self,
        x: Src<'_, Self::Buf>,
        w: Mat<'_, Self>,
        b: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, Self::Buf>,
        stats: Dst<'_, Self::Buf>,
    );
    /// Gradient of [`Backend::layer_norm`]. `dwb`, if given, is the gradient buffer with the offsets of `dw` and `db`.
    fn layer_norm_grad(
        &self,
        x: Src<'_, Self::Buf>,
        w: Mat<'_, Self>,
        width: usize,
        stats: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        dx: Dst<'_, Self::Buf>,
        add: bool,
        dwb: Option<(&mut Self::Buf, usize, usize)>,
    );

    // ---- attention --------------------------------------------------------------------------------
    /// Rotary embedding in place, half-split convention of Hugging Face: for `i < head_dim / 2`,
    /// `(x_i, x_{i+h}) ← (x_i c - x_{i+h} s, x_{i+h} c + x_i s)`. `table: [max_positions, head_dim]` holds
    /// `head_dim/2` cosines and then `head_dim/2` sines a row. `inverse` rotates back, which is the gradient.
    fn rope(
        &self,
        x: Dst<'_, Self::Buf>,
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: Src<'_, Self::Buf>,
        inverse: bool,
    );
    /// Softmax attention over segments without storing probabilities. `q, y: [n_q, heads · head_dim]`,
    /// `k, v: [n_k, kv_heads · head_dim]`, `lse: [n_q, heads]` keeps the log-sum-exp of each row for the gradient.
    fn attention(
        &self,
        q: Src<'_, Self::Buf>,
        k: Src<'_, Self::Buf>,
        v: Src<'_, Self::Buf>,
        segments: &[Segment],
        shape: AttnShape,
        y: Dst<'_, Self::Buf>,
        lse: Dst<'_, Self::Buf>,
    );
    /// Gradients of [`Backend::attention`] by recomputing the probabilities (arXiv:2205.14135, section 3.1). Writes
    /// (not accumulates) `dq, dk, dv`, with zeros on padding.
    fn attention_grad(
        &self,
        q: Src<'_, Self::Buf>,
        k: Src<'_, Self::Buf>,
        v: Src<'_, Self::Buf>,
        y: Src<'_, Self::Buf>,
        lse: Src<'_, Self::Buf>,
        dy: Src<'_, Self::Buf>,
        segments: &[Segment],
        shape: AttnShape,
        dq: Dst<'_, Self::Buf>,
        dk: Dst<'_, Self::Buf>,
        dv: Dst<'_, Self::Buf>,
    );

    // ---- losses -----------------------------------------------------------------------------------
    /// Elements of scratch that [`Backend::linear_cross_entropy`] wants for `m` rows: a chunk of logits.
    fn linear_cross_entropy_scratch(&self, m: usize, vocab: usize) -> usize;
    /// Head and cross-entropy in one, chunked, so that full logits never exist. `h: [m, d_in]` holds the rows that
    /// carry a label; `dh`, if given, receives (not accumulates) `Σ coef · ∂nll/∂h`, and `dw` accumulates the head's
    /// gradient (layout `OutIn`, the only one a head has). `nll`, if given, receives each row's loss in nats.
    fn linear_cross_entropy(
        &self,
        h: Src<'_, Self::Buf>,
        head: Linear<'_, Self>,
        labels: &[u32],
        coef: Coef<'_>,
        scratch: Dst<'_, Self::Buf>,
        dh: Option<Dst<'_, Self::Buf>>,
        dw: Option<Dst<'_, Self::Buf>>,
        nll: Option<&mut [f32]>,
    ) -> Loss;
    /// Cross-entropy of `logits: [m, classes]`, whose gradient (times `coef`) replaces `logits` when `grad` is set.
    fn cross_entropy(
        &self,
        logits: Dst<'_, Self::Buf>,
        classes: usize,
        labels: &[u32],
        coef: Coef<'_>,
        grad: bool,
        nll: Option<&mut [f32]>,
    ) -> Loss;
    /// `Σ_rows KL(softmax(teacher) ‖ softmax(student))` in nats, of logits `[m, classes]` both (Hinton et al. 2015,
    /// arXiv:1503.02531, at temperature 1). With `coef` the gradient `coef · (softmax(student) - softmax(teacher))`
    /// replaces `student`.
    fn kl_divergence(
        &self,
        teacher: Src<'_, Self::Buf>,
        student: Dst<'_, Self::Buf>,
        classes: usize,
        coef: Option<f32>,
    ) -> f64;

    // ---- optimisers -------------------------------------------------------------------------------
    /// One AdamW step over a flat vector; `m` and `v` are its moments.
    fn adamw(
        &self,
        theta: Dst<'_, Self::Buf>,
        grad: Src<'_, Self::Buf>,
        m: Dst<'_, Self::Buf>,
        v: Dst<'_, Self::Buf>,
        hyper: AdamW,
    );
    /// One SGD step; `momentum`, if given, is the buffer `b` and `first` says that it is unset.
    fn sgd(
        &self,
        theta: Dst<'_, Self::Buf>,
        grad: Src<'_, Self::Buf>,
        momentum: Option<(Dst<'_, Self::Buf>, bool)>,
        hyper: Sgd,
    );
}
