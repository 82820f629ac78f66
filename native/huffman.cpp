#include "huffman.h"

#include <algorithm>
#include <cstring>

namespace eighteen {
namespace {

// A symbol and its value by the next bits, as far as those suffice.
struct Step {
  int bits, value;
  unsigned run;
  bool is_end;

  // known: how many of `ahead` are
  bool take(const HuffmanCodes& codes, unsigned ahead, int known) {
    const int code = codes[ahead], length = code >> 8, size = code & 15;
    if (!code || length + size > known) return false;
    bits = length + size, value = value_of(uint64_t(ahead) << (64 - LOOK_AHEAD) << length, size);
    run = (code & 255) >> 4;
    is_end = !size && run != 15;
    return true;
  }
};

uint64_t entry(int bits, unsigned advance, unsigned first, unsigned second, int first_value, int second_value) {
  return static_cast<uint64_t>(bits) | advance << 8 | first << 16 | second << 24 | uint64_t(uint16_t(first_value)) << 32 |
         uint64_t(uint16_t(second_value)) << 48;
}

uint64_t entry(const HuffmanCodes& codes, unsigned ahead) {
  Step first, second;
  if (!first.take(codes, ahead, LOOK_AHEAD)) return entry(0, AcTable::UNKNOWN, 0, 0, 0, 0);
  if (first.is_end) return entry(first.bits, BLOCK_END, 0, 0, 0, 0);  // zeros where zeros are
  const unsigned place = first.run, next = place + 1, rest = ahead << first.bits & ((1u << LOOK_AHEAD) - 1);
  if (!second.take(codes, rest, LOOK_AHEAD - first.bits))
    return entry(first.bits, next, place, place, first.value, first.value);
  if (second.is_end) return entry(first.bits + second.bits, next + BLOCK_END, place, place, first.value, first.value);
  return entry(first.bits + second.bits, next + second.run + 1, place, next + second.run, first.value, second.value);
}

// As many symbols as the bits tell of; the value of the last one may lie beyond them.
uint16_t skip(const HuffmanCodes& codes, unsigned ahead) {
  int bits = 0;
  unsigned advance = 0;
  while (bits < LOOK_AHEAD) {
    const int code = codes[ahead << bits & ((1u << LOOK_AHEAD) - 1)];
    const int length = code >> 8, size = code & 15;
    const unsigned run = (code & 255) >> 4;
    if (!code || bits + length > LOOK_AHEAD) break;
    if (!size && run != 15) return static_cast<uint16_t>((bits + length) | (advance + BLOCK_END) << 6);
    if (advance + run + 1 > 63) break;
    bits += length + size, advance += run + 1;
  }
  return static_cast<uint16_t>(bits | (bits ? advance : AcTable::UNKNOWN) << 6);
}

}  // namespace

bool HuffmanCodes::build(const HuffmanSpec& spec) {
  std::memset(short_, 0, sizeof short_);
  std::memset(symbols_, 0, sizeof symbols_);
  std::copy_n(spec.symbols, spec.num, symbols_);
  int code = 0, place = 0;
  for (int bits = 1; bits <= 16; ++bits, code <<= 1) {
    offsets_[bits] = place - code;
    for (int n = spec.counts[bits - 1]; n; --n, ++code, ++place) {
      if (code >= 1 << bits) return false;
      if (bits > LOOK_AHEAD) continue;
      const int spare = LOOK_AHEAD - bits;
      std::fill_n(short_ + (code << spare), 1 << spare, static_cast<uint16_t>(bits << 8 | symbols_[place]));
    }
    if (spec.counts[bits - 1] && code >= 1 << bits) return false;  // no code is all ones
    limits_[bits] = code;
  }
  return true;
}

int HuffmanCodes::find_long(unsigned ahead16) const {
  for (int bits = LOOK_AHEAD + 1; bits <= 16; ++bits) {
    const int code = static_cast<int>(ahead16 >> (16 - bits));
    if (code < limits_[bits]) return bits << 8 | symbols_[(code + offsets_[bits]) & 255];
  }
  return 0;
}

bool DcTable::build(const HuffmanSpec& spec) {
  for (int n = 0; n < spec.num; ++n)
    if (spec.symbols[n] > 15) return false;
  return codes.build(spec);
}

bool AcTable::build(const HuffmanSpec& spec) {
  if (!codes.build(spec)) return false;
  for (unsigned ahead = 0; ahead < 1u << LOOK_AHEAD; ++ahead) entries[ahead] = entry(codes, ahead), skips[ahead] = skip(codes, ahead);
  return true;
}

}  // namespace eighteen
