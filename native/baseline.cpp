#include "baseline.h"

#include <algorithm>
#include <cstring>

namespace eighteen {
namespace {

constexpr int MARGIN = 32;  // bytes before and after a row: smoothing looks at a neighbour of its first and last sample

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

uint8_t* Baseline::Plane::row(int y) { return &samples[static_cast<size_t>(y % (2 * down * size)) * stride + MARGIN]; }

bool Baseline::open(const uint8_t* bytes, size_t length) {
  end_ = bytes + length;
  return header_.parse(bytes, length);
}

int Baseline::find_rows(e18_row* rows, int max_rows) {
  if (!scan_.start(header_, end_)) return 0;
  const Header::Component& luma = header_.components[0];
  const int columns = ceil_div(header_.width, 8 * luma.across), num = ceil_div(header_.height, 8 * luma.down);
  if (num > max_rows) return 0;
  for (e18_row* row = rows; row < rows + num; ++row)
    if (!scan_.tell(*row) || !scan_.skip_mcus(columns) || !scan_.end_row()) return 0;
  return num;
}

bool Baseline::start(int shrink, bool gray, int left, int right, int top, int bottom, const e18_row* rows,
                     uint32_t num_rows) {
  if (!scan_.start(header_, end_)) return false;
  const int size = 8 / shrink, out_width = ceil_div(header_.width, shrink);
  const Header::Component& luma = header_.components[0];
  out_height_ = ceil_div(header_.height, shrink);
  gray_ = gray;
  left_ = left, right_ = right, next_ = top;
  reach_ = !gray && luma.across == 2 && shrink < 8;  // smoothed chroma takes the samples next to those wanted
  mcu_width_ = luma.across * size, mcu_height_ = luma.down * size;
  columns_ = ceil_div(header_.width, 8 * luma.across);
  first_column_ = std::max(left - reach_, 0) / mcu_width_, end_column_ = ceil_div(std::min(right + reach_, out_width), mcu_width_);
  first_row_ = std::max(top - reach_, 0) / mcu_height_, end_row_ = ceil_div(std::min(bottom + reach_, out_height_), mcu_height_);
  rows_ = num_rows == static_cast<uint32_t>(ceil_div(header_.height, 8 * luma.down)) ? rows : nullptr;
  row_ = rows_ ? first_row_ : 0;
  num_planes_ = gray ? 1 : header_.num_components;
  for (int c = 0; c < header_.num_components; ++c) {
    if (c < num_planes_) plan(planes_[c], header_.components[c], shrink);
    if (c >= num_planes_ || planes_[c].size == 1) scan_.want_only_dc(c);
  }
  return true;
}

// Chroma that is stored at half the size takes larger blocks when shrunk, as far as there are any, instead of being
// upsampled: as in libjpeg's jdmaster.c.
void Baseline::plan(Plane& plane, const Header::Component& component, int shrink) {
  const Header::Component& luma = header_.components[0];
  const int across = luma.across / component.across, down = luma.down / component.down;
  const int grow = shrink > 1 && across == 2 && down == 2 ? 2 : 1;
  plane.across = component.across, plane.down = component.down;
  plane.size = 8 / shrink * grow;
  plane.is_half = across / grow == 2, plane.is_low = down / grow == 2;
  plane.width = ceil_div(header_.width * grow, across * shrink), plane.height = ceil_div(header_.height * grow, down * shrink);
  plane.inverse = inverse_dct(plane.size);
  plane.is_smooth = plane.is_half && shrink < 8 && plane.width > 2;  // as in jdsample.c
  for (int k = 0; k < 64; ++k) plane.quants[PLACES[k]] = header_.quants[component.quant][k];
  const int mcu = plane.across * plane.size;
  plane.first = first_column_ * mcu, plane.end = end_column_ * mcu;
  plane.stride = static_cast<size_t>(plane.end - plane.first) + 2 * MARGIN;
  const size_t bytes = plane.stride * 2 * plane.down * plane.size;
  if (plane.samples.size() < bytes) plane.samples.resize(bytes);
  const size_t upsampled = 2 * static_cast<size_t>(plane.end - plane.first);
  if (plane.is_half && plane.upsampled.size() < upsampled) plane.upsampled.resize(upsampled);
}

bool Baseline::read(uint8_t* row) {
  const int needed = std::min(next_ + reach_, out_height_ - 1) / mcu_height_;
  while (row_ <= needed)
    if (!decode_row()) return false;
  const int y = next_++, num = right_ - left_;
  const uint8_t* luma = planes_[0].row(y) + left_ - planes_[0].first;
  if (gray_) {
    std::memcpy(row, luma, static_cast<size_t>(num));
  } else if (header_.num_components == 1) {
    from_gray(luma, num, row);
  } else {
    colours_.from_ycbcr(luma, upsampled(planes_[1], y), upsampled(planes_[2], y), num, row);
  }
  return true;
}

// The row of chroma that belongs to a row of pixels, from the column `left_` on.
const uint8_t* Baseline::upsampled(Plane& plane, int y) {
  if (!plane.is_half) return plane.row(y) + left_ - plane.first;
  const int near = plane.is_low ? y / 2 : y;
  const int from = left_ / 2, num = ceil_div(right_, 2) - from;
  const uint8_t* samples = plane.row(near) + from - plane.first;
  uint8_t* out = plane.upsampled.data();
  if (!plane.is_smooth) {
    repeat_samples(samples, num, out);
  } else if (!plane.is_low) {
    colours_.smooth(samples, num, out);
  } else {
    const int far = std::clamp(y % 2 ? near + 1 : near - 1, 0, plane.height - 1);
    colours_.smooth_both(samples, plane.row(far) + from - plane.first, num, out);
  }
  return out + left_ % 2;
}

bool Baseline::decode_row() {
  const bool is_wanted = row_ >= first_row_, is_last = row_ == end_row_ - 1;
  int column = is_wanted ? first_column_ : 0;
  if (rows_ && !scan_.seek(rows_[row_])) return false;
  if (!scan_.skip_mcus(column)) return false;
  for (; is_wanted && column < end_column_; ++column) {
    if (!scan_.read_mcu()) return false;
    put_mcu(column);
  }
  if (!rows_ && !is_last && !scan_.skip_mcus(columns_ - column)) return false;
  if (!scan_.end_row()) return false;
  if (is_wanted && reach_) extend_edges(planes_[1]), extend_edges(planes_[2]);
  ++row_;
  return true;
}

void Baseline::put_mcu(int column) {
  const Scan::Block* block = scan_.blocks();
  for (Plane* plane = planes_; plane < planes_ + num_planes_; ++plane) {
    for (int y = 0; y < plane->down; ++y) {
      uint8_t* out = plane->row((row_ * plane->down + y) * plane->size) + column * plane->across * plane->size - plane->first;
      for (int x = 0; x < plane->across; ++x, ++block, out += plane->size) {
        const int16_t* coefficients = block->coefficients;
        if (block->num == 1) {
          inverse_dct_flat(plane->size, coefficients[0], plane->quants[0], out, plane->stride);
        } else {
          plane->inverse(coefficients, plane->quants, out, plane->stride);
        }
      }
    }
  }
}

// Beyond the edges of a picture its outermost samples go on; within it, this is where nobody looks.
void Baseline::extend_edges(Plane& plane) {
  const int rows = plane.down * plane.size, end = std::min(plane.end, plane.width) - plane.first;
  for (int y = row_ * rows; y < (row_ + 1) * rows; ++y) {
    uint8_t* row = plane.row(y);
    row[-1] = row[0], row[end] = row[end - 1];
  }
}

}  // namespace eighteen
