#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "header.h"

namespace eighteen {

// Entropy-coded bits up to a marker, with the zero bytes that hide 0xFF taken out. Reading past the end gives zeros:
// whoever reads looks at `ran_out` before so many bits were read that there are none of those either.
class Bits {
 public:
  static constexpr size_t MAX_OVERRUN = 4096;  // bytes: more than an MCU can take

  // Takes the bits before the next marker, of which it returns the first byte; nullptr if there is none.
  const uint8_t* take(const uint8_t* bytes, const uint8_t* end);
  bool ran_out() const { return left() < 0; }
  ptrdiff_t left() const { return 8 * (end_ - next_) + held_; }  // bits

 private:
  friend class BitReader;
  std::vector<uint8_t> bytes_;
  const uint8_t *next_ = nullptr, *end_ = nullptr;
  uint64_t window_ = 0;  // the next bits, from the highest on
  int held_ = 0;  // how many of them
};

// Zigzag to natural order. Runs beyond a block's end, which are no error to libjpeg, all lead to its last coefficient.
inline constexpr uint8_t PLACES[64 + 32] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

constexpr int LOOK_AHEAD = 11;  // bits that index a table

// The codes of one table: (bits of the code << 8 | symbol) by the next bits, and the long codes by their length.
class HuffmanCodes {
 public:
  bool build(const HuffmanSpec& spec);  // false if libjpeg would refuse it
  uint16_t operator[](unsigned ahead) const { return short_[ahead]; }  // 0: a longer code, or none
  int find_long(unsigned ahead16) const;  // as above, by 16 bits; 0: no code

 private:
  uint16_t short_[1 << LOOK_AHEAD];
  int limits_[17], offsets_[17];  // of each length: the first code that is no longer one, and where its symbols are
  uint8_t symbols_[256];
};

// For the first coefficient of a block.
struct DcTable {
  HuffmanCodes codes;
  bool build(const HuffmanSpec& spec);
};

// For the others. Most look-ups give two coefficients at once, and those that only skip give more.
struct AcTable {
  struct Pair {
    uint8_t bits;  // to the end of both
    uint8_t advance;  // coefficients to the next symbol; END where the block ends with it; 0: not two, look into `codes`
    uint8_t first, second;  // coefficients from here to each; a lone one is there twice
    int16_t values[2];
  };
  static constexpr int END = 128;  // more than a block has

  HuffmanCodes codes;
  Pair pairs[1 << LOOK_AHEAD];
  uint16_t skips[1 << LOOK_AHEAD];  // bits | coefficients << 6; END << 6 where the block ends; 0: look into `codes`

  bool build(const HuffmanSpec& spec);
};

// Reads the coefficients of blocks.
struct BlockReader {
  // block: [64], all zero, natural order; `previous` DC is added and updated
  // Returns how many coefficients in zigzag order may be other than zero, or 0 if there was no such code.
  int (*read)(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous, int16_t* block);
  // The same for a block that nobody wants.
  bool (*skip)(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous);

  static const BlockReader& here();  // the one for this processor
};

}  // namespace eighteen
