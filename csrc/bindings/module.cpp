// The Python face of a backend: one source, built once for each of _cpu, _emulator and _cuda (FASTCONV_MODULE).
// Tensors come as addresses, so nothing here knows of torch or CuPy.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/fast_run.h"
#include "fastconv/plan.h"
#include "planner/aten.h"

namespace py = pybind11;
using namespace fastconv;

// What one backend has beyond the common face: the emulator's settings and counters (csrc/emulator/controls.cpp).
void bind_backend_extras(py::module_& m);

namespace {

using Sizes = std::vector<int64_t>;

ConvProblem make_conv(int64_t n, int64_t c, int64_t k, const Sizes& input, const Sizes& filter, const Sizes& stride,
                      const Sizes& padding, const std::optional<Sizes>& padding_high, const Sizes& dilation,
                      int64_t groups, const std::string& dtype, const std::string& layout,
                      const std::string& padding_mode) {
  const int rank = int(input.size());
  require(rank >= 1 && rank <= 3, "input: expected 1 to 3 spatial dimensions, got ", rank);
  ConvProblem problem;
  problem.rank = rank;
  problem.dtype = parse_dtype(dtype);
  problem.layout = parse_layout(layout);
  problem.n = n, problem.c = c, problem.k = k, problem.groups = groups;
  problem.in = spread(input, rank, 1, "input");
  problem.filter = spread(filter, rank, 1, "weight");
  problem.stride = spread(stride, rank, 1, "stride");
  problem.pad_lo = spread(padding, rank, 0, "padding");
  problem.pad_hi = spread(padding_high.value_or(padding), rank, 0, "padding");
  problem.dilation = spread(dilation, rank, 1, "dilation");
  problem.pad_mode = parse_pad_mode(padding_mode);
  problem.validate();
  return problem;
}

PoolProblem make_pool(const std::string& kind, int64_t n, int64_t c, const Sizes& input, const Sizes& window,
                      const Sizes& stride, const Sizes& padding, const Sizes& dilation, bool ceil_mode,
                      bool count_include_pad, std::optional<int64_t> divisor_override, const std::string& dtype,
                      const std::string& layout, const Sizes& adaptive_output) {
  const int rank = int(input.size());
  require(rank >= 1 && rank <= 3, "input: expected 1 to 3 spatial dimensions, got ", rank);
  require(divisor_override != 0, "divisor_override: expected a divisor other than zero");
  PoolProblem problem;
  problem.rank = rank;
  problem.kind = parse_pool_kind(kind);
  problem.dtype = parse_dtype(dtype);
  problem.layout = parse_layout(layout);
  problem.n = n, problem.c = c;
  problem.in = spread(input, rank, 1, "input");
  if (!adaptive_output.empty()) {
    problem.adapt_to(spread(adaptive_output, rank, 1, "output_size"));
    problem.validate();
    return problem;
  }
  problem.window = spread(window, rank, 1, "kernel_size");
  problem.stride = spread(stride, rank, 1, "stride");
  problem.pad = spread(padding, rank, 0, "padding");
  problem.dilation = spread(dilation, rank, 1, "dilation");
  problem.ceil_mode = ceil_mode;
  problem.count_include_pad = count_include_pad;
  problem.divisor_override = divisor_override.value_or(0);
  problem.validate();
  return problem;
}

SeparableProblem make_separable(const ConvProblem& depthwise, int64_t k, bool bias, const std::string& activation,
                                double slope) {
  SeparableProblem problem{depthwise, k, bias, parse_activation(activation), slope};
  problem.validate();
  return problem;
}

Sizes spatial(const Axes& axes, int rank) { return Sizes(axes.begin() + (3 - rank), axes.end()); }

template <class T>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

template <class Problem>
void bind_shape(py::class_<Problem>& type) {
  type.def_readonly("rank", &Problem::rank)
      .def_readonly("n", &Problem::n)
      .def_readonly("c", &Problem::c)
      .def_property_readonly("input", [](const Problem& p) { return spatial(p.in, p.rank); })
      .def_property_readonly("output", [](const Problem& p) { return spatial(p.out, p.rank); })
      .def_property_readonly("stride", [](const Problem& p) { return spatial(p.stride, p.rank); })
      .def_property_readonly("dilation", [](const Problem& p) { return spatial(p.dilation, p.rank); })
      .def_property_readonly("dtype", [](const Problem& p) { return name_of(p.dtype); })
      .def_property_readonly("layout", [](const Problem& p) { return name_of(p.layout); })
      .def(
          "flops", [](const Problem& p, const std::string& pass) { return p.flops(parse_pass(pass)); },
          py::arg("pass_"))
      .def(
          "bytes", [](const Problem& p, const std::string& pass) { return p.bytes(parse_pass(pass)); },
          py::arg("pass_"))
      .def("__repr__", &Problem::describe);
}

void bind_problems(py::module_& m) {
  auto conv = py::class_<ConvProblem>(m, "ConvProblem", py::module_local());
  bind_shape(conv);
  conv.def(py::init(&make_conv), py::kw_only(), py::arg("n"), py::arg("c"), py::arg("k"), py::arg("input"),
           py::arg("filter"), py::arg("stride"), py::arg("padding"), py::arg("padding_high") = py::none(),
           py::arg("dilation"), py::arg("groups") = 1, py::arg("dtype") = "float32", py::arg("layout") = "nchw",
           py::arg("padding_mode") = "zeros")
      .def_readonly("k", &ConvProblem::k)
      .def_readonly("groups", &ConvProblem::groups)
      .def_property_readonly("filter", [](const ConvProblem& p) { return spatial(p.filter, p.rank); })
      .def_property_readonly("padding", [](const ConvProblem& p) { return spatial(p.pad_lo, p.rank); })
      .def_property_readonly("padding_mode", [](const ConvProblem& p) { return name_of(p.pad_mode); })
      .def_property_readonly("padding_high", [](const ConvProblem& p) { return spatial(p.pad_hi, p.rank); });

  auto pool = py::class_<PoolProblem>(m, "PoolProblem", py::module_local());
  bind_shape(pool);
  pool.def(py::init(&make_pool), py::kw_only(), py::arg("kind"), py::arg("n"), py::arg("c"), py::arg("input"),
           py::arg("window") = Sizes(), py::arg("stride") = Sizes(), py::arg("padding") = Sizes(),
           py::arg("dilation") = Sizes(), py::arg("ceil_mode") = false, py::arg("count_include_pad") = true,
           py::arg("divisor_override") = py::none(), py::arg("dtype") = "float32", py::arg("layout") = "nchw",
           py::arg("adaptive_output") = Sizes(), "With adaptive_output, the windows follow from the sizes alone.")
      .def_property_readonly(
          "adaptive_output", [](const PoolProblem& p) { return p.is_adaptive() ? spatial(p.out, p.rank) : Sizes(); },
          "The output's sizes if in is not a multiple of them; else empty: an ordinary problem.")
      .def_property_readonly("kind", [](const PoolProblem& p) { return name_of(p.kind); })
      .def_property_readonly("window", [](const PoolProblem& p) { return spatial(p.window, p.rank); })
      .def_property_readonly("padding", [](const PoolProblem& p) { return spatial(p.pad, p.rank); })
      .def_readonly("ceil_mode", &PoolProblem::ceil_mode)
      .def_readonly("count_include_pad", &PoolProblem::count_include_pad)
      .def_readonly("divisor_override", &PoolProblem::divisor_override)
      .def_property_readonly("offset_bytes", &PoolProblem::offset_bytes);

  py::class_<SeparableProblem>(m, "SeparableProblem", py::module_local())
      .def(py::init(&make_separable), py::kw_only(), py::arg("depthwise"), py::arg("k"), py::arg("bias") = false,
           py::arg("activation") = "none", py::arg("slope") = 0.01, "bias, activation and slope: z's epilogue.")
      .def_readonly("depthwise", &SeparableProblem::depthwise)
      .def_property_readonly("pointwise", &SeparableProblem::pointwise)
      .def_readonly("k", &SeparableProblem::k)
      .def_property_readonly("between_bytes", &SeparableProblem::between_bytes)
      .def("__repr__", &SeparableProblem::describe);
}

template <class Problem>
py::class_<Plan<Problem>> bind_plan(py::module_& m, const char* name) {
  return py::class_<Plan<Problem>>(m, name, py::module_local())
      .def_readonly("problem", &Plan<Problem>::problem)
      .def_property_readonly("pass_", [](const Plan<Problem>& plan) { return name_of(plan.pass); })
      .def_readonly("kernel", &Plan<Problem>::kernel)
      .def_readonly("runner_up", &Plan<Problem>::runner_up)
      .def_readonly("unpinned", &Plan<Problem>::unpinned)
      .def_readonly("candidates", &Plan<Problem>::candidates)
      .def_readonly("cost", &Plan<Problem>::cost)
      .def_property_readonly("detail", [](const Plan<Problem>& plan) { return plan.prepared.detail; })
      .def_property_readonly("workspace_bytes", [](const Plan<Problem>& plan) { return plan.prepared.workspace_bytes; })
      .def_property_readonly("is_aten", &Plan<Problem>::is_aten)
      .def("explain", &Plan<Problem>::explain)
      .def("__repr__", [](const Plan<Problem>& plan) {
        return concat("<plan ", plan.kernel, ": ", name_of(plan.pass), " of ", plan.problem.describe(), ">");
      });
}

template <class Problem>
void launch(const Plan<Problem>& plan, const typename args_of<Problem>::type& args) {
  require(!plan.is_aten(), "kernel: an aten plan is run by PyTorch, not by this module");
  require(plan.prepared.workspace_bytes == 0 || args.workspace, "workspace: the plan needs ",
          plan.prepared.workspace_bytes, " bytes, got none");
  plan.prepared.launch(args);
}

void run_conv(const Plan<ConvProblem>& plan, const Addresses<7>& at) {
  require(at[0] && at[4], "run: the first operand or the output has no memory");
  require(bool(at[3]) == plan.options.residual, "run: the plan ", plan.options.residual ? "adds a" : "has no",
          " residual, got ", at[3] ? "an address" : "none");
  launch(plan, {address<const void>(at[0]), address<const void>(at[1]), address<const void>(at[2]),
                address<const void>(at[3]), address<void>(at[4]), address<void>(at[5]), address<void>(at[6])});
}

void run_pool(const Plan<PoolProblem>& plan, const Addresses<6>& at) {
  require(at[0] && at[1], "run: the operand or the output has no memory");
  require(at[3] || (plan.pass != Pass::unpool && plan.pass != Pass::pick), "run: unpooling without indices");
  launch(plan, {address<const void>(at[0]), address<void>(at[1]), address<void>(at[2]), address<int64_t>(at[3]),
                address<void>(at[4]), address<void>(at[5])});
}

void run_separable(const Plan<SeparableProblem>& plan, const Addresses<9>& at) {
  require(at[0] && at[1] && at[3] && at[6], "run: an operand or the output has no memory");
  require(bool(at[5]) == plan.options.residual, "run: the plan ", plan.options.residual ? "adds a" : "has no",
          " residual, got ", at[5] ? "an address" : "none");
  require(bool(at[2]) == plan.problem.bias, "run: depthwise_bias: the plan has ", plan.problem.bias ? "one" : "none");
  launch(plan, {address<const void>(at[0]), address<const void>(at[1]), address<const void>(at[2]),
                address<const void>(at[3]), address<const void>(at[4]), address<const void>(at[5]),
                address<void>(at[6]), address<void>(at[7]), address<void>(at[8])});
}

PlanOptions conv_options(const std::string& kernel, int64_t workspace_limit, int threads, int device, bool bias) {
  PlanOptions options;
  options.kernel = kernel, options.workspace_limit = workspace_limit, options.threads = threads;
  options.device = device, options.bias = bias;
  return options;
}

PlanOptions pool_options(const std::string& kernel, int64_t workspace_limit, int threads, int device, bool offsets,
                         bool indices) {
  PlanOptions options = conv_options(kernel, workspace_limit, threads, device, false);
  options.offsets = offsets, options.indices = indices;
  return options;
}

template <class Problem>
py::list kernel_table(const std::vector<Kernel<Problem>>& kernels) {
  py::list rows;
  for (const auto& kernel : kernels) rows.append(py::make_tuple(kernel.name, kernel.summary));
  return rows;
}

}  // namespace

PYBIND11_MODULE(FASTCONV_MODULE, m) {
  m.doc() = "A fastconv backend: problem -> candidates -> plan -> run(addresses, workspace, stream).";
  bind_problems(m);

  py::class_<Cost>(m, "Cost", py::module_local())
      .def_readonly("microseconds", &Cost::microseconds)
      .def_readonly("flops", &Cost::flops)
      .def_readonly("bytes", &Cost::bytes)
      .def_readonly("l2_bytes", &Cost::l2_bytes)
      .def_readonly("cycles", &Cost::cycles)
      .def_readonly("blocks", &Cost::blocks)
      .def_readonly("waves", &Cost::waves)
      .def_readonly("registers", &Cost::registers)
      .def_readonly("blocks_per_sm", &Cost::blocks_per_sm)
      .def_readonly("occupancy", &Cost::occupancy)
      .def_property_readonly("occupancy_limit", [](const Cost& cost) { return std::string(cost.occupancy_limit); });
  py::class_<Candidate>(m, "Candidate", py::module_local())
      .def_readonly("kernel", &Candidate::kernel)
      .def_readonly("accepted", &Candidate::accepted)
      .def_readonly("reason", &Candidate::reason)
      .def_readonly("cost", &Candidate::cost)
      .def_readonly("family", &Candidate::family);

  bind_plan<ConvProblem>(m, "ConvPlan")
      .def_property_readonly("epilogue", [](const Plan<ConvProblem>& plan) { return describe_epilogue(plan.options); })
      .def_property_readonly("run", &fast_run<Plan<ConvProblem>, 7, run_conv>,
                             "run(a, b, bias, residual, out, workspace, stream): addresses as ints, 0 for none");
  bind_plan<PoolProblem>(m, "PoolPlan")
      .def_property_readonly("run", &fast_run<Plan<PoolProblem>, 6, run_pool>,
                             "run(src, dst, offsets, indices, workspace, stream): addresses as ints, 0 for none");

  bind_plan<SeparableProblem>(m, "SeparablePlan")
      .def_property_readonly("epilogue",
                             [](const Plan<SeparableProblem>& plan) { return describe_epilogue(plan.options); })
      .def_property_readonly("run", &fast_run<Plan<SeparableProblem>, 9, run_separable>,
                             "run(x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual, out, "
                             "workspace, stream): addresses as ints, 0 for none");

  m.attr("LAST_RESORT_MICROSECONDS") = last_resort_microseconds;  // the price of what only runs if nothing else can
  m.def(
      "conv_plan",
      [](const ConvProblem& problem, const std::string& pass, const std::string& kernel, int64_t workspace_limit,
         int threads, int device, bool bias, const std::string& math, const std::string& pinned, bool residual,
         const std::string& activation, double slope) {
        PlanOptions options = conv_options(kernel, workspace_limit, threads, device, bias);
        options.math = parse_math(math), options.pinned = pinned;
        options.residual = residual, options.activation = parse_activation(activation), options.slope = slope;
        require(parse_pass(pass) < Pass::unpool, "pass_: a convolution has no ", pass);
        require(parse_pass(pass) == Pass::fprop || refuse_epilogue(options).empty(),
                "pass_: only fprop adds a residual or applies an activation, got ", pass);
        return make_plan(problem, parse_pass(pass), options);
      },
      py::arg("problem"), py::arg("pass_"), py::kw_only(), py::arg("kernel") = "", py::arg("workspace_limit") = -1,
      py::arg("threads") = 0, py::arg("device") = 0, py::arg("bias") = false, py::arg("math") = "ieee",
      py::arg("pinned") = "", py::arg("residual") = false, py::arg("activation") = "none", py::arg("slope") = 0.01);
  m.def(
      "pool_plan",
      [](const PoolProblem& problem, const std::string& pass, const std::string& kernel, int64_t workspace_limit,
         int threads, int device, bool offsets, bool indices, const std::string& pinned) {
        PlanOptions options = pool_options(kernel, workspace_limit, threads, device, offsets, indices);
        options.pinned = pinned;
        return make_plan(problem, parse_pass(pass), options);
      },
      py::arg("problem"), py::arg("pass_"), py::kw_only(), py::arg("kernel") = "", py::arg("workspace_limit") = -1,
      py::arg("threads") = 0, py::arg("device") = 0, py::arg("offsets") = false, py::arg("indices") = false,
      py::arg("pinned") = "");

  m.def(
      "separable_plan",
      [](const SeparableProblem& problem, const std::string& pass, const std::string& kernel, int64_t workspace_limit,
         int threads, int device, bool bias, const std::string& math, bool residual, const std::string& activation,
         double slope) {
        PlanOptions options = conv_options(kernel, workspace_limit, threads, device, bias);
        options.math = parse_math(math);
        options.residual = residual, options.activation = parse_activation(activation), options.slope = slope;
        return make_plan(problem, parse_pass(pass), options);
      },
      py::arg("problem"), py::arg("pass_") = "fprop", py::kw_only(), py::arg("kernel") = "",
      py::arg("workspace_limit") = -1, py::arg("threads") = 0, py::arg("device") = 0, py::arg("bias") = false,
      py::arg("math") = "ieee", py::arg("residual") = false, py::arg("activation") = "none", py::arg("slope") = 0.01);

  m.def("output_size", &output_size, py::arg("input"), py::arg("low"), py::arg("high"), py::arg("window"),
        py::arg("stride"), py::arg("dilation"), py::arg("ceil_mode") = false);
  m.def("conv_kernels", [] { return kernel_table(conv_kernels()); });
  m.def("pool_kernels", [] { return kernel_table(pool_kernels()); });
  m.def("separable_kernels", [] { return kernel_table(separable_kernels()); });
  m.def("info", [] {
    const BackendInfo info = backend_info();
    py::dict result;
    result["name"] = info.name;
    result["available"] = info.available;
    result["reason"] = info.reason;
    result["devices"] = info.devices;
    result["details"] = info.details;
    return result;
  });
  bind_backend_extras(m);
}
