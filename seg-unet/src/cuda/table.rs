//! The network's kernels and biases, as `pack_weights` takes all of them at once.

/// Layers of a table at most: more than the deepest network has, 4 · depth + 2 convolutions and `depth` ways up.
pub(super) const LAYERS: usize = 48;

/// One layer, as the kernel declares it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Layer {
    pub(super) weight: u64,
    pub(super) bias: u64,
    pub(super) forward: u64,
    /// 0 where no gradient goes back.
    pub(super) backward: u64,
    pub(super) padded_bias: u64,
    pub(super) inputs: i32,
    pub(super) outputs: i32,
    pub(super) first: i32,
    pub(super) first_padded: i32,
    pub(super) real_inputs: i32,
    pub(super) real_outputs: i32,
    pub(super) taps: i32,
    pub(super) unused: i32,
}

impl Layer {
    const NONE: Self = Self {
        weight: 0,
        bias: 0,
        forward: 0,
        backward: 0,
        padded_bias: 0,
        inputs: 0,
        outputs: 0,
        first: 0,
        first_padded: 0,
        real_inputs: 0,
        real_outputs: 0,
        taps: 0,
        unused: 0,
    };

    /// Numbers of its kernel, with the zeros.
    pub(super) fn numbers(&self) -> usize {
        (self.taps * self.inputs * self.outputs) as usize
    }
}

/// A kernel's parameter, which may have 4 KiB.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Layers([Layer; LAYERS]);

const _: () = assert!(size_of::<Layers>() < 4000);

impl Layers {
    /// At most [`LAYERS`] layers.
    pub(super) fn new(layers: &[Layer]) -> Self {
        let mut all = [Layer::NONE; LAYERS];
        all[..layers.len()].copy_from_slice(layers);
        Self(all)
    }
}
