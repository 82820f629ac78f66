#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace eighteen {

// One axis of a resize: for each target pixel, which source pixels make it and with what weights.
struct Axis {
  int first = 0, end = 0;  // source pixels that are used at all: [first, end)
  int taps = 0;  // weights of a target pixel; the last ones may be 0
  std::vector<int> starts;  // [target]: source pixel of the first weight
  std::vector<int16_t> weights;  // [target, taps]

  // Antialiased bilinear weights as Pillow's: a triangle as wide as a target pixel, at least 2 source pixels, which may
  // reach beyond the box but not beyond the source.
  //
  // [low, low + length): the box, in source pixels      source: how many there are      one: what weights add up to
  // multiple: of which `taps` has to be one      mirror: the last target pixel first
  void plan(double low, double length, int source, int target, int one, int multiple, bool mirror);
};

// Source rows, front to back.
class Rows {
 public:
  virtual bool read(uint8_t* row) = 0;  // the next one; false if there is none, for a reason that the source knows
  virtual int left() const = 0;  // which source pixel the first of a row is

 protected:
  ~Rows() = default;
};

// Resizes a box of a picture, row by row: no more source rows are held than one target row needs.
//
// The vertical pass comes first, to 7 bits below a pixel's unit, then the horizontal one, which rounds once. All
// instruction sets give the same bits.
class Resizer {
 public:
  struct Box {
    double left, top, width, height;
  };

  // source_bytes: of a source pixel, 4 (the last one is ignored) or 1
  void plan(Box box, int source_width, int source_height, int width, int height, int source_bytes, bool mirror);
  const Axis& columns() const { return columns_; }
  const Axis& rows() const { return rows_; }

  // pixels: [height, width, channels], channels 3 for source pixels of 4 bytes and 1 for those of 1
  // row_pixels: of a row that `source` reads      false if it could not read a row
  // source_ns: the time that `source` took is added
  bool run(Rows& source, int row_pixels, uint8_t* pixels, uint64_t& source_ns);

 private:
  Axis columns_, rows_;
  int width_ = 0, height_ = 0, bytes_ = 0;
  std::vector<uint8_t> ring_;  // source rows
  std::vector<int16_t> blended_;  // one row after the vertical pass
  std::vector<const uint8_t*> window_;  // the source rows of a target row
};

}  // namespace eighteen
