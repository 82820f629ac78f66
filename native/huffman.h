#pragma once

#include <cstdint>

#include "header.h"

namespace eighteen {

constexpr int LOOK_AHEAD = 10;  // bits that index a table; 9 read slower, 11 take longer to build (LOG.md)
constexpr unsigned BLOCK_END = 128;  // coefficients: more than a block has

// The codes of a table: (bits of the code << 8 | symbol) by the next bits, and the long codes by their length.
class HuffmanCodes {
 public:
  bool build(const HuffmanSpec& spec);  // false if libjpeg would refuse it
  int operator[](unsigned ahead) const { return short_[ahead]; }  // 0: a longer code, or none
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

// For the others. A look-up gives one or two coefficients, and where they are only skipped, more.
struct AcTable {
  static constexpr unsigned UNKNOWN = 255;  // coefficients: look into `codes`

  HuffmanCodes codes;
  // From the lowest bit on: the bits of all (8), coefficients to the next symbol (8), coefficients from here to the
  // first (8) and to the second (8), and their values (16 each). A lone one is there twice. Where the block ends with
  // it, BLOCK_END more lead to the next symbol.
  uint64_t entries[1 << LOOK_AHEAD];
  uint16_t skips[1 << LOOK_AHEAD];  // bits of all (6), coefficients to the next symbol, as above

  bool build(const HuffmanSpec& spec);
};

// The value of `size` bits, 0 to 15, at the top of a word: those that begin with 0 are negative.
inline __attribute__((always_inline)) int value_of(uint64_t word, int size) {
  const int bits = static_cast<int>(word >> 1 >> (63 - size));
  const int is_negative = static_cast<int>(~word >> 63);
  return bits - (((1 << size) - 1) & -is_negative);
}

}  // namespace eighteen
