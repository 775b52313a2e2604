#include "core/autograd.h"

#include <algorithm>
#include <queue>
#include <unordered_set>

#include "core/tensor_ops.h"

namespace filigree {
namespace {

thread_local bool enabled = true;

struct Node;

}  // namespace

// Where the gradient of one value is collected.
struct GradSlot {
  Tensor grad;
  std::shared_ptr<Node> producer;  // null for a leaf
};

namespace {

struct Node {
  const char* op = "";
  // 1 + the greatest depth of the producers of the inputs: running nodes from the deepest up is a topological
  // order, and the same one every time.
  int depth = 0;
  std::vector<std::shared_ptr<GradSlot>> inputs;  // null where no gradient is wanted
  std::vector<std::weak_ptr<GradSlot>> outputs;   // the outputs own the node
  MultiBackward backward;
};

void accumulate(Tensor& into, Tensor grad) {
  if (!into.defined()) {
    into = std::move(grad);
  } else if (into.unique()) {
    ops::add_in_place(into, grad);
  } else {
    Tensor sum = into.clone();
    ops::add_in_place(sum, grad);
    into = std::move(sum);
  }
}

}  // namespace

// The one place that sees inside Var.
struct Tape {
  static const std::shared_ptr<GradSlot>& slot(const Var& v) { return v.slot_; }
  static void set_slot(Var& v, std::shared_ptr<GradSlot> slot) { v.slot_ = std::move(slot); }

  static void run(const Var& loss, Tensor seed) {
    require(loss.requires_grad(), "[backward] the loss depends on nothing that requires a gradient");
    if (!seed.defined()) {
      require(loss.numel() == 1, "[backward] a result of shape {} needs a seed gradient", loss.shape().str());
      seed = Tensor::full(loss.shape(), 1, loss.dtype(), loss.device());
    }
    require(seed.shape() == loss.shape(), "[backward] seed of shape {} for a result of shape {}",
            seed.shape().str(), loss.shape().str());
    accumulate(slot(loss)->grad, std::move(seed));

    struct Entry {
      std::shared_ptr<Node> node;
      std::int64_t order;  // of discovery, to break ties of depth
      bool operator<(const Entry& o) const {
        return node->depth != o.node->depth ? node->depth < o.node->depth : order > o.order;
      }
    };
    std::priority_queue<Entry> ready;
    std::unordered_set<Node*> seen;
    // A value that only the tape still knew would take its gradient along when its consumer lets go of it.
    std::vector<std::shared_ptr<GradSlot>> alive;
    const auto discover = [&](const std::shared_ptr<Node>& node) {
      if (node && seen.insert(node.get()).second) ready.push({node, std::ssize(seen)});
    };
    discover(slot(loss)->producer);
    while (!ready.empty()) {
      const std::shared_ptr<Node> node = ready.top().node;
      ready.pop();
      for (const auto& input : node->inputs)
        if (input) {
          alive.push_back(input);
          discover(input->producer);
        }
      run_node(*node);
    }
  }

  static void run_node(Node& node) {
    require(node.backward != nullptr, "[backward] {} was already differentiated; its tape is gone", node.op);
    std::vector<Tensor> output_grads(node.outputs.size());
    bool any = false;
    for (std::size_t i = 0; i < node.outputs.size(); ++i)
      if (const auto out = node.outputs[i].lock()) {
        output_grads[i] = std::move(out->grad);
        out->grad = {};
        any = any || output_grads[i].defined();
      }
    if (any) {
      std::vector<Tensor> grads = node.backward(output_grads);
      check(grads.size() == node.inputs.size(), "a backward returned the wrong number of gradients");
      output_grads.clear();
      for (std::size_t i = 0; i < grads.size(); ++i)
        if (node.inputs[i] && grads[i].defined()) accumulate(node.inputs[i]->grad, std::move(grads[i]));
    }
    node.backward = nullptr;  // frees what the op saved
    node.inputs.clear();
  }
};

Var::Var(Tensor value, bool requires_grad) : value_(std::move(value)) {
  if (requires_grad) slot_ = std::make_shared<GradSlot>();
}

const Tensor& Var::grad() const {
  check(slot_ != nullptr, "grad() of a variable that requires none");
  return slot_->grad;
}

void Var::zero_grad() {
  check(slot_ != nullptr, "zero_grad() of a variable that requires no gradient");
  slot_->grad = {};
}

bool grad_enabled() {
  return enabled;
}
NoGrad::NoGrad() : before_(enabled) {
  enabled = false;
}
NoGrad::~NoGrad() {
  enabled = before_;
}

bool recording(std::span<const Var> inputs) {
  return enabled && std::ranges::any_of(inputs, [](const Var& v) { return v.requires_grad(); });
}

std::vector<Var> make_results(const char* op, std::vector<Tensor> values, std::vector<Var> inputs,
                              MultiBackward backward) {
  std::vector<Var> results;
  for (auto& v : values) results.emplace_back(std::move(v));
  if (!recording(inputs)) return results;
  const auto node = std::make_shared<Node>();
  node->op = op;
  node->backward = std::move(backward);
  for (const auto& input : inputs) {
    const auto& slot = Tape::slot(input);
    node->inputs.push_back(slot);
    if (slot && slot->producer) node->depth = std::max(node->depth, slot->producer->depth + 1);
  }
  for (auto& r : results) {
    const auto slot = std::make_shared<GradSlot>();
    slot->producer = node;
    node->outputs.push_back(slot);
    Tape::set_slot(r, slot);
  }
  return results;
}

Var make_result(const char* op, Tensor value, std::vector<Var> inputs, Backward backward) {
  if (!recording(inputs)) return Var(std::move(value));
  std::vector<Tensor> values;
  values.push_back(std::move(value));
  auto multi = [f = std::move(backward)](std::span<const Tensor> grads) { return f(grads[0]); };
  return make_results(op, std::move(values), std::move(inputs), std::move(multi))[0];
}

void backward(const Var& loss, Tensor seed) {
  Tape::run(loss, std::move(seed));
}

Var checkpoint(const std::function<Var(const Var&)>& f, const Var& x) {
  if (!grad_enabled()) return f(x);
  Tensor y;
  {
    const NoGrad guard;
    y = f(x.detach()).value();
  }
  // f's leaves get their gradients inside the replay. The tape must reach this node even where x needs none.
  const Var input = x.requires_grad() ? x : Var(x.value(), true);
  return make_result("checkpoint", y, {input},
                     [f, value = x.value(), wanted = x.requires_grad()](const Tensor& dy) {
                       const Var replay_input(value, wanted);
                       const Var replay = f(replay_input);
                       if (replay.requires_grad()) backward(replay, dy);
                       return std::vector<Tensor>{wanted ? replay_input.grad() : Tensor{}};
                     });
}

}  // namespace filigree
