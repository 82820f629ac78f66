#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "colour.h"
#include "header.h"
#include "idct.h"
#include "resize.h"
#include "scan.h"

namespace eighteen {

// Decodes a part of a plain JPEG, faster than libjpeg-turbo and to the same bits. It takes no other JPEG, and gives up
// at whatever is odd in one: what to make of that, `Jpeg` decides. Open, then start, then read row after row. Memory is
// kept for the next picture.
class Baseline final : public Rows {
 public:
  // Each is false where `Jpeg` has to do it.
  bool open(const uint8_t* bytes, size_t length);  // reads the headers
  // shrink: 1, 2, 4 or 8      columns [left, right) and rows [top, bottom): what is needed, in shrunk pixels
  // gray: rows of 1 byte a pixel, else of 4 (RGB, and one to ignore)
  // rows: where the rows of MCUs begin, if there is one of each of them: only those that are needed are read
  bool start(int shrink, bool gray, int left, int right, int top, int bottom, const e18_row* rows, uint32_t num_rows);
  bool read(uint8_t* row) override;

  int find_rows(e18_row* rows, int max_rows);  // once opened: how many, or 0, as e18_find_rows

  int width() const { return header_.width; }
  int height() const { return header_.height; }
  int left() const override { return left_; }
  int row_pixels() const { return right_ - left_; }  // of a row, once started

 private:
  // The samples of a component, as many rows of them as two rows of MCUs have.
  struct Plane {
    int across, down;  // blocks in an MCU
    int size;  // samples of a block's side, shrunk
    int width, height;  // samples of the whole picture
    bool is_half, is_low;  // half as wide, or as high, as the picture: to be upsampled
    bool is_smooth;  // and how
    int first, end;  // samples of a row that are kept
    size_t stride;
    InverseDct inverse;
    alignas(32) int16_t quants[64];  // natural order
    std::vector<uint8_t> samples;
    std::vector<uint8_t> upsampled;  // a row

    uint8_t* row(int y);  // of the picture
  };

  void plan(Plane& plane, const Header::Component& component, int shrink);
  bool decode_row();
  void put_mcu(int column);
  void extend_edges(Plane& plane);
  const uint8_t* upsampled(Plane& plane, int y);

  Header header_;
  const uint8_t* end_ = nullptr;  // of the file
  Scan scan_;
  const ColourKernels& colours_ = ColourKernels::here();
  Plane planes_[3];
  int num_planes_ = 0;
  bool gray_ = false;
  int out_height_ = 0;  // pixels, shrunk like all others here
  int left_ = 0, right_ = 0, next_ = 0;  // columns, and the row to be read
  int reach_ = 0;  // from there to what is also needed
  int mcu_width_ = 0, mcu_height_ = 0;
  int columns_ = 0, first_column_ = 0, end_column_ = 0;  // of MCUs: all, and those wanted
  const e18_row* rows_ = nullptr;
  int row_ = 0, first_row_ = 0, end_row_ = 0;  // of MCUs: the next, and those wanted
};

}  // namespace eighteen
