//! The parameters of a layer as the reference's state dict names them.

use std::borrow::Cow;

use crate::layer::config::{Config, Dims, Variant};
use crate::tensor::DType;

/// Name, shape and optimiser's mark of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// The name in the reference's state dict, such as `in_proj.weight` or `conv1d_layers.0.bias`.
    pub name: String,
    /// Its sides; values are contiguous, the last side running fastest.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: to all but `A_log` and `D`.
    pub weight_decay: bool,
    /// The type it is stored in: the layer's, but at least f32 for `A_log`, `D` and `conv_gates`, as in the
    /// reference.
    pub dtype: DType,
}

impl ParameterInfo {
    /// Number of values, `usize::MAX` where the product overflows.
    pub fn count(&self) -> usize {
        self.shape.iter().fold(1, |count, &side| count.saturating_mul(side))
    }
}

/// Every parameter of a layer in the order of the reference's state dict, each tensor once: the alias
/// `conv1d.*` of branch 0 is left out.
pub fn parameter_list(config: &Config, dims: &Dims) -> Vec<ParameterInfo> {
    let (d_model, d_inner) = (dims.d_model, dims.d_inner);
    let mut list = List { parameters: Vec::new(), dtype: config.dtype };

    if config.variant.is_gated() {
        list.add("conv_gates", &[dims.branches]);
    }
    list.add("A_log", &[d_inner, dims.d_state]);
    list.add("D", &[d_inner]);
    list.add_pair("in_proj", &[2 * d_inner, d_model], config.bias);
    match config.variant {
        Variant::Ptcn | Variant::Stcn => list.add_branches("conv1d_layers", dims, config.conv_bias),
        Variant::Baseline => list.add_pair("conv1d", &[d_inner, 1, dims.d_conv], config.conv_bias),
        Variant::Dpwc => {} // registered last, as the reference's subclass does
    }
    list.add_pair("x_proj", &[dims.dt_rank + 2 * dims.d_state, d_inner], false);
    list.add_pair("dt_proj", &[d_inner, dims.dt_rank], true);
    list.add_pair("out_proj", &[d_model, d_inner], config.bias);
    if config.variant == Variant::Dpwc {
        list.add_branches("dw_conv1d_layers", dims, config.conv_bias);
        for i in 0..dims.branches {
            list.add_pair(&format!("pw_conv1d_layers.{i}"), &[d_inner, d_inner, 1], true);
        }
    }
    list.parameters
}

/// The name in [`parameter_list`] of what `name` denotes: `conv1d.*` is branch 0 of the variants that have
/// branches, every other name is its own.
pub fn canonical_name(variant: Variant, name: &str) -> Cow<'_, str> {
    match (first_branch(variant), name.strip_prefix("conv1d.")) {
        (Some(branch), Some(rest)) => Cow::Owned(format!("{branch}{rest}")),
        _ => Cow::Borrowed(name),
    }
}

/// The second name of a parameter of branch 0, and `None` for every other parameter: the inverse of
/// [`canonical_name`].
pub fn alias_of(variant: Variant, name: &str) -> Option<String> {
    let rest = name.strip_prefix(first_branch(variant)?)?;
    Some(format!("conv1d.{rest}"))
}

fn first_branch(variant: Variant) -> Option<&'static str> {
    match variant {
        Variant::Ptcn | Variant::Stcn => Some("conv1d_layers.0."),
        Variant::Dpwc => Some("dw_conv1d_layers.0."),
        Variant::Baseline => None,
    }
}

struct List {
    parameters: Vec<ParameterInfo>,
    dtype: DType,
}

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        let weight_decay = !matches!(name, "A_log" | "D");
        let dtype = match (name, self.dtype) {
            ("A_log" | "D" | "conv_gates", DType::Bf16 | DType::F16) => DType::F32,
            (_, dtype) => dtype,
        };
        self.parameters.push(ParameterInfo {
            name: name.to_owned(),
            shape: shape.to_vec(),
            weight_decay,
            dtype,
        });
    }

    /// `weight` and, where the module has one, a `bias` as long as the weight's first side.
    fn add_pair(&mut self, module: &str, weight_shape: &[usize], bias: bool) {
        self.add(&format!("{module}.weight"), weight_shape);
        if bias {
            self.add(&format!("{module}.bias"), &weight_shape[..1]);
        }
    }

    fn add_branches(&mut self, modules: &str, dims: &Dims, bias: bool) {
        for i in 0..dims.branches {
            self.add_pair(&format!("{modules}.{i}"), &[dims.d_inner, 1, dims.d_conv], bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(variant: Variant, branches: usize, bias: bool, conv_bias: bool) -> Vec<ParameterInfo> {
        let conv_dilations = vec![1; branches];
        let config = Config { d_state: 3, conv_dilations, bias, conv_bias, ..Config::new(variant, 4) };
        parameter_list(&config, &config.dims().unwrap())
    }

    fn names(list: &[ParameterInfo]) -> Vec<&str> {
        list.iter().map(|parameter| parameter.name.as_str()).collect()
    }

    #[test]
    fn order_and_shapes_are_those_of_the_state_dict() {
        let ptcn = list(Variant::Ptcn, 2, true, true);
        let expected: [(&str, &[usize]); 14] = [
            ("conv_gates", &[2]),
            ("A_log", &[8, 3]),
            ("D", &[8]),
            ("in_proj.weight", &[16, 4]),
            ("in_proj.bias", &[16]),
            ("conv1d_layers.0.weight", &[8, 1, 4]),
            ("conv1d_layers.0.bias", &[8]),
            ("conv1d_layers.1.weight", &[8, 1, 4]),
            ("conv1d_layers.1.bias", &[8]),
            ("x_proj.weight", &[7, 8]),
            ("dt_proj.weight", &[8, 1]),
            ("dt_proj.bias", &[8]),
            ("out_proj.weight", &[4, 8]),
            ("out_proj.bias", &[4]),
        ];
        let found: Vec<_> = ptcn.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        assert_eq!(found, expected);

        let stcn = list(Variant::Stcn, 2, true, true);
        assert_eq!(names(&stcn), names(&ptcn[1..]));
    }

    #[test]
    fn dpwc_branches_come_last_and_the_pointwise_bias_always() {
        let dpwc = list(Variant::Dpwc, 2, false, false);
        assert_eq!(
            names(&dpwc),
            [
                "conv_gates",
                "A_log",
                "D",
                "in_proj.weight",
                "x_proj.weight",
                "dt_proj.weight",
                "dt_proj.bias",
                "out_proj.weight",
                "dw_conv1d_layers.0.weight",
                "dw_conv1d_layers.1.weight",
                "pw_conv1d_layers.0.weight",
                "pw_conv1d_layers.0.bias",
                "pw_conv1d_layers.1.weight",
                "pw_conv1d_layers.1.bias",
            ]
        );
        assert_eq!(dpwc[10].shape, [8, 8, 1]);
    }

    #[test]
    fn baseline_has_one_convolution_and_no_gates() {
        let baseline = list(Variant::Baseline, 1, false, true);
        assert_eq!(
            names(&baseline),
            [
                "A_log",
                "D",
                "in_proj.weight",
                "conv1d.weight",
                "conv1d.bias",
                "x_proj.weight",
                "dt_proj.weight",
                "dt_proj.bias",
                "out_proj.weight",
            ]
        );
    }

    #[test]
    fn only_a_log_and_d_are_free_of_weight_decay() {
        for variant in Variant::ALL {
            let list = list(variant, 1, true, true);
            let free: Vec<_> = list.iter().filter(|p| !p.weight_decay).map(|p| p.name.as_str()).collect();
            assert_eq!(free, ["A_log", "D"], "{variant:?}");
        }
    }

    #[test]
    fn aliases_and_their_inverse() {
        for (variant, branch) in [
            (Variant::Ptcn, "conv1d_layers.0.weight"),
            (Variant::Stcn, "conv1d_layers.0.weight"),
            (Variant::Dpwc, "dw_conv1d_layers.0.weight"),
        ] {
            assert_eq!(canonical_name(variant, "conv1d.weight"), branch);
            assert_eq!(canonical_name(variant, branch), branch);
            assert_eq!(alias_of(variant, branch).as_deref(), Some("conv1d.weight"));
            assert_eq!(alias_of(variant, "conv1d_layers.01.weight"), None);
            assert_eq!(alias_of(variant, "conv1d_layers.1.weight"), None);
        }
        assert_eq!(canonical_name(Variant::Baseline, "conv1d.weight"), "conv1d.weight");
        assert_eq!(alias_of(Variant::Baseline, "conv1d.weight"), None);
    }

    #[test]
    fn count_saturates() {
        let huge = ParameterInfo {
            name: "x".into(),
            shape: vec![1 << 40, 1 << 40],
            weight_decay: true,
            dtype: DType::F32,
        };
        assert_eq!(huge.count(), usize::MAX);
        assert_eq!(ParameterInfo { shape: vec![3, 1, 4], ..huge }.count(), 12);
    }
}
