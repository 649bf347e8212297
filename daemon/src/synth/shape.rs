//! Shapes of published models.

/// The shape of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// The name on the command line.
    pub name: &'static str,
    /// What it is the shape of.
    pub about: &'static str,
    /// Tokens.
    pub vocab: u32,
    /// Positions.
    pub context: u32,
    /// Values of a hidden state.
    pub hidden: u32,
    /// Values inside a feed-forward block.
    pub ffn: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// Base of the rotary angles.
    pub rope_theta: f32,
}

impl Shape {
    /// The shapes of this build.
    pub const ALL: [Shape; 4] = [
        Shape {
            name: "bitnet-2b4t",
            about: "microsoft/bitnet-b1.58-2B-4T: 2.4 billion weights, 1.2 GB",
            vocab: 128_256,
            context: 4096,
            hidden: 2560,
            ffn: 6912,
            layers: 30,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            rope_theta: 500_000.0,
        },
        Shape {
            // Its own graph has SiLU; the matrices, and so bytes and products, are the same.
            name: "bitnet-large",
            about: "1bitLLM/bitnet_b1_58-large: 0.7 billion weights, 0.3 GB",
            vocab: 32_002,
            context: 2048,
            hidden: 1536,
            ffn: 4096,
            layers: 24,
            heads: 16,
            kv_heads: 16,
            head_dim: 96,
            rope_theta: 10_000.0,
        },
        Shape {
            // Appendix A; the vocabulary is that of the tokenizer its script takes.
            name: "100b",
            about: "the 100 billion weights of arXiv 2410.16144, which nobody trained: 26 GB",
            vocab: 32_002,
            context: 2048,
            hidden: 8192,
            ffn: 45_568,
            layers: 72,
            heads: 64,
            kv_heads: 64,
            head_dim: 128,
            rope_theta: 10_000.0,
        },
        Shape {
            name: "tiny",
            about: "a toy for tests: 0.3 million weights, 0.3 MB",
            vocab: 512,
            context: 256,
            hidden: 128,
            ffn: 256,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            rope_theta: 10_000.0,
        },
    ];

    /// The shape of that name.
    pub fn by_name(name: &str) -> Option<&'static Shape> {
        Self::ALL.iter().find(|shape| shape.name == name)
    }
}
