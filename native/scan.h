#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "eighteen.h"
#include "header.h"
#include "huffman.h"

namespace eighteen {

// Zigzag to natural order. Runs beyond a block's end, which are no error to libjpeg, all lead to its last coefficient.
inline constexpr uint8_t PLACES[64 + 32] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

// Entropy-coded bits up to a marker, with the zero bytes that hide 0xFF taken out. Reading past the end gives zeros:
// whoever reads looks at `ran_out` after each MCU, so that there always are enough of those.
class Bits {
 public:
  // Takes the bits before the next marker, of which it returns the first byte; nullptr if there is none, or an odd one.
  const uint8_t* take(const uint8_t* bytes, const uint8_t* end);
  bool ran_out() const { return left() < 0; }
  ptrdiff_t left() const { return 8 * (end_ - next_) + held_; }  // bits
  ptrdiff_t place() const { return 8 * (next_ - bytes_.data()) - held_; }  // of the next bit
  bool seek(ptrdiff_t place);  // false beyond the end

 private:
  friend class BitReader;
  std::vector<uint8_t> bytes_;
  const uint8_t *next_ = nullptr, *end_ = nullptr;
  uint64_t window_ = 0;  // the next bits, from the highest on
  int held_ = 0;  // how many of them
};

// The entropy-coded part of a plain JPEG, MCU after MCU. Memory is kept for the next picture.
class Scan {
 public:
  struct Block {
    alignas(32) int16_t coefficients[64];  // natural order
    int num;  // in zigzag order, how many of them may be other than zero
  };
  struct Component {
    int blocks;  // in an MCU
    bool only_dc;  // all that is wanted of it
    const DcTable* dc;
    const AcTable* ac;
    int previous;  // DC
  };
  static constexpr int MAX_BLOCKS = 6;  // in an MCU

  // Each is false at whatever libjpeg-turbo might warn of, or make something else of.
  bool start(const Header& header, const uint8_t* end);  // end: of the file
  void want_only_dc(int component) { components_[component].only_dc = true; }
  bool read_mcu();
  bool skip_mcus(int num);
  // Goes to where a row of MCUs begins, or says where the next one does. Only without restart markers; false also where it
  // cannot be.
  bool seek(const e18_row& row);
  bool tell(e18_row& row) const;
  bool end_row();  // after the last MCU of a row, or the last that is wanted

  const Block* blocks() const { return blocks_; }  // of the MCU that was read: all of a component, row by row, then the next
  int dc(int component) const { return static_cast<int16_t>(components_[component].previous); }  // of its last block

 private:
  bool build_tables(const Header& header);
  bool restart();

  Component components_[3];
  int num_components_ = 0;
  Block blocks_[MAX_BLOCKS];
  Bits bits_;
  const uint8_t *marker_ = nullptr, *end_ = nullptr;  // after the bits; of the file
  int interval_ = 0, to_restart_ = 0, restarts_ = 0;  // MCUs, MCUs, markers seen
  DcTable dc_[4];
  AcTable ac_[4];
};

}  // namespace eighteen
