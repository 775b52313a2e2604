#include "train/run/run_setup.h"

#include "core/build_info.h"
#include "core/parallel.h"
#include "data/progress.h"
#include "layers/flops.h"
#include "train/config/device_choice.h"
#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/evaluate/length_scores.h"

namespace filigree {
namespace {

// The model's vocabulary and classes, where the config leaves them to the data.
void fill_from_data(ModelConfig& model, const Dataset& data) {
  const std::int64_t vocabulary = data.vocabulary().size;
  if (model.vocab_size == 0) model.vocab_size = vocabulary;
  require(model.vocab_size >= vocabulary, "model.vocab_size is {} but the data's tokenizer has {} tokens",
          model.vocab_size, vocabulary);
  if (model.type != ModelType::encoder_classifier) return;
  const auto classes = static_cast<std::int64_t>(data.class_names().size());
  if (model.n_classes == 0) model.n_classes = classes;
  require(model.n_classes >= classes, "model.n_classes is {} but the data has {} classes", model.n_classes,
          classes);
}

// "tokenizer bpe:88d8ca1f308bb5d6 (tokenizer.json), 4096 tokens"; empty for a generated task.
std::string describe_tokenizer(const RunSetup& setup) {
  if (setup.config.data.task) return "";
  const Vocabulary& vocabulary = setup.data.train.vocabulary();
  if (tokenizer_word(vocabulary.tokenizer) == "ids")
    return fmt::format("tokenizer unknown: the files hold ids only{}, all below {}\n",
                       vocabulary.tokenizer.empty() ? "" : fmt::format(" ('{}')", vocabulary.tokenizer),
                       vocabulary.size);
  const std::string& named = setup.config.data.tokenizer;
  return fmt::format("tokenizer {}{}, {} tokens\n", vocabulary.tokenizer,
                     named == vocabulary.tokenizer ? "" : fmt::format(" ({})", named.substr(4)),
                     vocabulary.size);
}

// For the user: documents that nothing separates. Empty: there are none, or they are meant to be one stream.
std::string separator_note(const Config& config, const OpenedData& data) {
  const bool several =
      data.train.n_documents() > 1 || (data.validation && data.validation->n_documents() > 1);
  if (config.model.type != ModelType::decoder || data.train.generated() || !config.data.documents ||
      !several || data.train.vocabulary().separator)
    return "";
  const std::string& tokenizer = data.train.vocabulary().tokenizer;
  return fmt::format(
      "{}: the first token of a document is not predicted, nor where a document ends",
      tokenizer.empty() ? "no separator token is known" : tokenizer + " has no separator token");
}

std::string mib(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576.0);
}

}  // namespace

DataRequest data_request(const Config& config) {
  DataRequest request;
  request.task = config.data.task;
  request.seq_len = config.data.seq_len;
  request.train = config.data.train;
  request.validation = config.data.val;
  request.val_fraction = config.data.val_fraction;
  request.format = config.data.format;
  request.tokenizer = config.data.tokenizer;
  request.seed = static_cast<std::uint64_t>(config.seed);
  request.classes = config.model.type == ModelType::encoder_classifier;
  return request;
}

RunSetup set_up_run(const Config& config, std::shared_ptr<const Tokenizer> trained_with,
                    std::vector<std::string> known_classes) {
  const Config given = with_device(config);
  set_n_threads(given.threads);
  DataRequest request = data_request(given);
  request.trained_with = std::move(trained_with);
  request.known_classes = std::move(known_classes);
  RunSetup setup{given, open_data(request), {}, {}, 0, {}};
  if (!given.data.task) setup.config.data.tokenizer = setup.data.tokenizer;
  fill_from_data(setup.config.model, setup.data.train);
  {
    LoaderOptions options = loader_options(setup.config);
    options.prefetch = false;
    const Loader loader(setup.data.train, options);
    const std::int64_t batch = given.train.batch_size;
    setup.config = resolve_steps(setup.config, (loader.samples_per_epoch() + batch - 1) / batch);
  }
  if (const std::string note = separator_note(setup.config, setup.data); !note.empty())
    setup.data.notes.push_back(note);
  if (setup.data.validation) {
    require_targets(setup.config, *setup.data.validation, setup.config.train.eval_batches);
    require_length_targets(setup.config, setup.config.train.eval_batches);
  }
  setup.patterns = layer_patterns(setup.config);
  setup.flops_per_token =
      model_flops_per_token(setup.config.model, setup.patterns->layouts(setup.config.data.seq_len));
  setup.matrix_rate = MatrixRate::of(device_of(given), compute_dtype(given));
  allocator(device_of(given)).release_cached();  // what the measurement took is no part of the run
  allocator(device_of(given)).reset_peak();
  reset_peak_resident_bytes();
  setup.memory =
      plan_memory(setup.config, setup.patterns, setup.data.validation ? &*setup.data.validation : nullptr);
  return setup;
}

std::string describe(const RunSetup& setup, bool every_parameter) {
  const Config& config = setup.config;
  Transformer shape(config.model, 0, Device::meta());
  const Device device = device_of(config);
  const std::string where =
      device.is_cuda() ? device_name(Device::cuda()) : fmt::format("the cpu, {} threads", n_threads());
  std::string text = fmt::format("filigree {} on {}, {}, measured matrix rate {}FLOP/s\n", version(), where,
                                 word(config.precision), human_count(setup.matrix_rate.flops()));
  for (const std::string& note : setup.data.notes) text += fmt::format("data      {}\n", note);
  text += describe_tokenizer(setup);
  const ModelConfig& model = config.model;
  text += fmt::format("model     {}, {} layers of {} heads of dimension {}, width {}: {} parameters\n{}",
                      word(model.type), model.n_layers, model.n_heads, model.head_dim, model.dim,
                      human_count(static_cast<double>(shape.parameter_count())),
                      every_parameter ? shape.parameter_table() : "");
  text += fmt::format("work      {}FLOP per token of a training step, {} tokens a step\n",
                      human_count(setup.flops_per_token), config.train.batch_size * config.data.seq_len);
  text += describe_layouts(config, setup.patterns->layouts(config.data.seq_len));
  text += fmt::format("memory    expected peak {}: weights {}, optimizer {}, all tensors {}; {} are free\n",
                      mib(setup.memory.process), mib(setup.memory.parameters), mib(setup.memory.optimizer),
                      mib(setup.memory.tensors), mib(free_memory(device)));
  if (setup.memory.process > free_memory(device))
    text +=
        "warning   that is more than there is: lower train.micro_batch_size or data.seq_len, or set "
        "model.activation_checkpointing: true\n";
  return text;
}

}  // namespace filigree
