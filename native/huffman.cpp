#include "huffman.h"

#include <algorithm>
#include <cstring>

#include "processor.h"

#define INLINE inline __attribute__((always_inline))

namespace eighteen {
namespace {

constexpr int END = AcTable::END;
constexpr int LAST_WITH_PAIRS = 64 - 16;  // from here on the second of a pair might belong to the next block

// The value of `size` bits, 0 to 15, at the top of the window: those that begin with 0 are negative.
INLINE int value_of(uint64_t window, int size) {
  const int bits = static_cast<int>(window >> 1 >> (63 - size));
  const int is_negative = static_cast<int>(~window >> 63);
  return bits - (((1 << size) - 1) & -is_negative);
}

}  // namespace

// Bits, held in registers while a block is read.
class BitReader {
 public:
  explicit INLINE BitReader(Bits& bits) : bits_(bits), next_(bits.next_), window_(bits.window_), held_(bits.held_) {}
  INLINE ~BitReader() { bits_.next_ = next_, bits_.window_ = window_, bits_.held_ = held_; }

  // From 56 bits on are held afterwards: a symbol with its value has at most 31.
  INLINE void refill() {
    uint64_t word;
    std::memcpy(&word, next_, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    window_ |= word >> held_;
    next_ += (63 - held_) >> 3;
    held_ |= 56;
  }
  INLINE unsigned ahead() const { return static_cast<unsigned>(window_ >> (64 - LOOK_AHEAD)); }
  INLINE void drop(int num) { window_ <<= num, held_ -= num; }

  // Any symbol; -1: no such code.
  INLINE int symbol(const HuffmanCodes& codes) {
    int code = codes[ahead()];
    if (__builtin_expect(!code, 0)) code = codes.find_long(static_cast<unsigned>(window_ >> 48));
    drop(code >> 8);
    return code ? code & 255 : -1;
  }
  INLINE int value(int size) {
    const int value = value_of(window_, size);
    drop(size);
    return value;
  }

 private:
  Bits& bits_;
  const uint8_t* next_;
  uint64_t window_;
  int held_;
};

namespace {

INLINE bool read_dc(BitReader& reader, const DcTable& table, int& previous) {
  reader.refill();
  const int size = reader.symbol(table.codes);
  if (size < 0) return false;
  previous += reader.value(size);
  return true;
}

// One symbol after the DC, whatever it is: moves `place` on. False: no such code.
INLINE bool read_one(BitReader& reader, const AcTable& table, int& place, int16_t* block) {
  const int symbol = reader.symbol(table.codes);
  if (symbol < 0) return false;
  const int run = symbol >> 4, size = symbol & 15;
  if (size) {
    block[PLACES[place + run]] = static_cast<int16_t>(reader.value(size));
    place += run + 1;
  } else {
    place += run == 15 ? 16 : END;
  }
  return true;
}

INLINE int read_block(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous, int16_t* block) {
  BitReader reader(bits);
  if (!read_dc(reader, dc, previous)) return 0;
  block[0] = static_cast<int16_t>(previous);
  int place = 1;
  while (place < LAST_WITH_PAIRS) {
    reader.refill();
    const AcTable::Pair& pair = ac.pairs[reader.ahead()];
    if (__builtin_expect(pair.advance, 1)) {
      reader.drop(pair.bits);
      block[PLACES[place + pair.first]] = pair.values[0];
      block[PLACES[place + pair.second]] = pair.values[1];
      place += pair.advance;
    } else if (!read_one(reader, ac, place, block)) {
      return 0;
    }
  }
  while (place < 64) {
    reader.refill();
    if (!read_one(reader, ac, place, block)) return 0;
  }
  return place < END ? 64 : place - END;
}

INLINE bool skip_one(BitReader& reader, const AcTable& table, int& place) {
  const int symbol = reader.symbol(table.codes);
  if (symbol < 0) return false;
  const int run = symbol >> 4, size = symbol & 15;
  reader.drop(size);
  place += size || run == 15 ? run + 1 : END;
  return true;
}

INLINE bool skip_block(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous) {
  BitReader reader(bits);
  if (!read_dc(reader, dc, previous)) return false;
  int place = 1;
  while (place < 64) {
    reader.refill();
    const int skip = ac.skips[reader.ahead()], advance = skip >> 6;
    // Only its last symbol may lead out of the block.
    if (__builtin_expect(skip && place + (advance & (END - 1)) < 64, 1)) {
      reader.drop(skip & 63);
      place += advance;
    } else if (!skip_one(reader, ac, place)) {
      return false;
    }
  }
  return true;
}

int read_portable(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous, int16_t* block) {
  return read_block(bits, dc, ac, previous, block);
}

bool skip_portable(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous) {
  return skip_block(bits, dc, ac, previous);
}

#if defined(AVX2)  // for its shifts by a register, which keep the flags
AVX2 int read_avx2(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous, int16_t* block) {
  return read_block(bits, dc, ac, previous, block);
}

AVX2 bool skip_avx2(Bits& bits, const DcTable& dc, const AcTable& ac, int& previous) {
  return skip_block(bits, dc, ac, previous);
}
#endif

// A symbol and its value by the next bits, as far as those suffice.
struct Step {
  int bits, run, value;
  bool is_end;
};

// False: the bits do not suffice. known: how many of `ahead` are
bool step(const HuffmanCodes& codes, unsigned ahead, int known, Step& step) {
  const int code = codes[ahead], length = code >> 8, run = (code & 255) >> 4, size = code & 15;
  if (!code || length + size > known) return false;
  step = {length + size, run, value_of(uint64_t(ahead) << (64 - LOOK_AHEAD + length), size), !size && run != 15};
  return true;
}

AcTable::Pair pair(const HuffmanCodes& codes, unsigned ahead) {
  Step first, second;
  if (!step(codes, ahead, LOOK_AHEAD, first)) return {};
  AcTable::Pair pair{};
  pair.bits = static_cast<uint8_t>(first.bits);
  if (first.is_end) return pair.advance = END, pair;  // two zeros where zeros are
  pair.advance = static_cast<uint8_t>(first.run + 1);
  pair.first = pair.second = static_cast<uint8_t>(first.run);
  pair.values[0] = pair.values[1] = static_cast<int16_t>(first.value);
  const unsigned rest = ahead << first.bits & ((1u << LOOK_AHEAD) - 1);
  if (!step(codes, rest, LOOK_AHEAD - first.bits, second)) return pair;
  pair.bits = static_cast<uint8_t>(first.bits + second.bits);
  if (second.is_end) return pair.advance = static_cast<uint8_t>(pair.advance + END), pair;
  pair.second = static_cast<uint8_t>(pair.advance + second.run);
  pair.values[1] = static_cast<int16_t>(second.value);
  pair.advance = static_cast<uint8_t>(pair.second + 1);
  return pair;
}

// As many symbols as the bits tell of; the value of the last one may lie beyond them.
uint16_t skip(const HuffmanCodes& codes, unsigned ahead) {
  int bits = 0, advance = 0;
  while (bits < LOOK_AHEAD) {
    const int code = codes[ahead << bits & ((1u << LOOK_AHEAD) - 1)];
    const int length = code >> 8, run = (code & 255) >> 4, size = code & 15;
    if (!code || bits + length > LOOK_AHEAD) break;
    if (!size && run != 15) return static_cast<uint16_t>((bits + length) | (advance + END) << 6);
    if (advance + run + 1 > 63) break;
    bits += length + size, advance += run + 1;
  }
  return static_cast<uint16_t>(bits | advance << 6);
}

}  // namespace

const uint8_t* Bits::take(const uint8_t* bytes, const uint8_t* end) {
  const size_t most = static_cast<size_t>(end - bytes) + MAX_OVERRUN;
  if (bytes_.size() < most) bytes_.resize(most);
  uint8_t* out = bytes_.data();
  window_ = 0, held_ = 0;
  next_ = out;
  while (const void* found = std::memchr(bytes, 0xFF, static_cast<size_t>(end - bytes))) {
    const uint8_t* at = static_cast<const uint8_t*>(found);
    const bool is_data = end - at >= 2 && at[1] == 0;
    const size_t num = static_cast<size_t>(at - bytes) + is_data;
    std::memcpy(out, bytes, num);
    out += num;
    if (!is_data) {
      std::memset(out, 0, MAX_OVERRUN);
      end_ = out;
      return end - at >= 2 ? at : nullptr;
    }
    bytes = at + 2;
  }
  end_ = next_;
  return nullptr;
}

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
  for (unsigned ahead = 0; ahead < 1u << LOOK_AHEAD; ++ahead) pairs[ahead] = pair(codes, ahead), skips[ahead] = skip(codes, ahead);
  return true;
}

const BlockReader& BlockReader::here() {
#if defined(AVX2)
  static const BlockReader chosen = has_avx2() ? BlockReader{read_avx2, skip_avx2} : BlockReader{read_portable, skip_portable};
#else
  static const BlockReader chosen{read_portable, skip_portable};
#endif
  return chosen;
}

}  // namespace eighteen
