#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/tensor.h"
#include "tests/gradcheck.h"

namespace filigree {
namespace {

TEST(Shape, Basics) {
  const Shape s{2, 3, 5};
  EXPECT_EQ(s.rank(), 3);
  EXPECT_EQ(s.numel(), 30);
  EXPECT_EQ(s[-1], 5);
  EXPECT_EQ(s[0], 2);
  EXPECT_EQ(s.with(-2, 7), (Shape{2, 7, 5}));
  EXPECT_EQ(s.append(4), (Shape{2, 3, 5, 4}));
  EXPECT_EQ(s.drop_last(), (Shape{2, 3}));
  EXPECT_EQ(s.str(), "[2, 3, 5]");
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{4, 0}).numel(), 0);
  EXPECT_NE(s, (Shape{2, 3}));
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1}).append(1), Error);
  EXPECT_THROW(Shape{}.drop_last(), std::logic_error);
}

TEST(Tensor, FillsEveryDtype) {
  for (const DType type :
       {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32}) {
    const Tensor t = Tensor::full({3, 5}, 7, type);
    EXPECT_EQ(t.bytes(), 15 * dtype_size(type));
    for (int i = 0; i < 15; ++i) EXPECT_EQ(t.item(i), 7) << dtype_name(type);
    EXPECT_EQ(Tensor::zeros({2}, type).item(1), 0);
  }
}

TEST(Tensor, MakesFromValues) {
  const Tensor t = Tensor::of<std::int32_t>({2, 2}, {1, 2, 3, 4});
  EXPECT_EQ(t.dtype(), DType::i32);
  EXPECT_EQ(t.item(2), 3);
  EXPECT_THROW(Tensor::of<float>({2, 2}, {1, 2, 3}), Error);
  EXPECT_THROW(Tensor::empty({2, -1}), Error);
}

TEST(Tensor, RefusesToBeReadAsAnotherDtype) {
  Tensor t = Tensor::zeros({2});
  EXPECT_THROW(t.data<double>(), std::logic_error);
  EXPECT_THROW(t.item(2), std::logic_error);
  EXPECT_THROW(Tensor{}.device(), std::logic_error);
  EXPECT_THROW(Tensor::zeros({2}, DType::f32, Device::meta()).data<float>(), std::logic_error);
}

TEST(Tensor, ViewsShareStorage) {
  Tensor t = Tensor::of<float>({3, 2}, {0, 1, 2, 3, 4, 5});
  EXPECT_TRUE(t.unique());
  Tensor flat = t.reshape({-1}), tail = t.slice(1, 3), inner = tail.slice(1, 2);
  EXPECT_FALSE(t.unique());
  EXPECT_EQ(flat.shape(), (Shape{6}));
  EXPECT_EQ(tail.shape(), (Shape{2, 2}));
  EXPECT_EQ(inner.item(0), 4);
  tail.data<float>()[0] = 20;
  EXPECT_EQ(flat.item(2), 20);
  EXPECT_TRUE(t.shares_storage(inner));
  Tensor copy = t.clone();
  EXPECT_FALSE(copy.shares_storage(t));
  EXPECT_EQ(copy.item(2), 20);
  EXPECT_EQ(t.slice(3, 3).numel(), 0);
  EXPECT_THROW(t.slice(2, 4), Error);
  EXPECT_THROW(t.slice(2, 1), Error);
  EXPECT_THROW(t.reshape({4, -1}), Error);
  EXPECT_THROW(t.reshape({7}), Error);
  tail.fill_zero();
  EXPECT_EQ(t.item(1), 1);
  EXPECT_EQ(t.item(5), 0);
}

TEST(Tensor, CopiesOnlyWhatFits) {
  Tensor t = Tensor::zeros({2, 2});
  t.copy_from(Tensor::full({2, 2}, 3));
  EXPECT_EQ(t.item(3), 3);
  EXPECT_THROW(t.copy_from(Tensor::zeros({4})), Error);
  EXPECT_THROW(t.copy_from(Tensor::zeros({2, 2}, DType::f64)), Error);
}

TEST(Tensor, ConvertsBetweenFloatingDtypes) {
  Random random(test_seed(), 50);
  const Tensor x = random.normal({1000}), single = x.to(DType::f32);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(single.item(i), static_cast<float>(x.item(i)));
  EXPECT_TRUE(x.to(DType::f64).shares_storage(x));
  const Tensor half = single.to(DType::bf16), back = half.to(DType::f32);
  for (int i = 0; i < 1000; ++i)
    EXPECT_LE(std::abs(back.item(i) - single.item(i)), std::abs(single.item(i)) * 0x1p-8);
  EXPECT_THROW(x.to(DType::i32), Error);
}

TEST(Bf16, RoundsToNearestEven) {
  const auto round = [](float x) { return static_cast<float>(bf16(x)); };
  EXPECT_EQ(round(1.0f), 1.0f);
  EXPECT_EQ(round(1.0f + 0x1p-8f), 1.0f);                      // a tie goes to even
  EXPECT_EQ(round(1.0f + 0x1p-7f + 0x1p-8f), 1.0f + 0x1p-6f);  // and upwards here
  EXPECT_EQ(round(1.0f + 0x1.1p-8f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round(-2.5f), -2.5f);
  EXPECT_EQ(round(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round(-std::numeric_limits<float>::infinity()), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(round(std::bit_cast<float>(0x7f800001u))));
}

TEST(Tensor, MetaHasShapesWithoutData) {
  const Tensor t = Tensor::full({3, 4}, 5, DType::f64, Device::meta());
  EXPECT_EQ(t.device().str(), "meta");
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_EQ(t.raw_data(), nullptr);
  EXPECT_EQ(t.item(3), 0);
  EXPECT_EQ(t.slice(1, 2).clone().to(DType::f32).shape(), (Shape{1, 4}));
  EXPECT_EQ(Tensor::zeros({2}).to(Device::meta()).raw_data(), nullptr);
}

}  // namespace
}  // namespace filigree
