#include "train/evaluate/planted_recovery.h"

#include <set>

#include "data/tasks/generated_samples.h"
#include "data/tasks/planted.h"

namespace filigree {

std::optional<PlantedRecovery> planted_recovery(const Transformer& model, const Dataset& data,
                                                std::int64_t seq_len) {
  if (!data.generated() || data.generated()->task().name() != "planted") return {};
  PlantedRecovery score;
  std::set<std::pair<int, int>> planted, found;
  bool any = false;
  for (const ConnectivityPtr& layer : model.connectivities()) {
    if (!layer->learns() || layer->reads_text()) continue;
    any = true;
    const LayoutPtr layout = layer->connect({seq_len}).layout;
    if (planted.empty())
      for (const TilePairs& rule : planted_tiles(data.generated()->task(), seq_len, layout->tile()))
        for (const auto& [q, k] : rule)
          if (q != k) planted.emplace(q, k);
    for (int head = 0; head < layout->n_heads(); ++head) {
      const TilePattern& p = layout->of_head(head);
      for (int q = 0; q < layout->query_tiles(); ++q)
        for (std::int64_t t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
          if (p.columns[t] == q) continue;
          ++score.chosen;
          if (!planted.contains({q, p.columns[t]})) continue;
          ++score.chosen_planted;
          found.emplace(q, p.columns[t]);
        }
    }
  }
  if (!any) return {};
  score.planted = std::ssize(planted);
  score.planted_found = std::ssize(found);
  return score;
}

}  // namespace filigree
