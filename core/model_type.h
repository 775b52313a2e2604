// The purpose of a model: it decides what a model computes, what data samples are and how they are scored.
#pragma once

#include "core/fields.h"

namespace filigree {

enum class ModelType { decoder, encoder_mlm, encoder_classifier };
template <>
inline constexpr Word kWords<ModelType>[] = {{"decoder", "predicts the next token"},
                                             {"encoder_mlm", "predicts masked tokens"},
                                             {"encoder_classifier", "predicts the class of a whole sample"}};

}  // namespace filigree
