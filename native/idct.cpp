#include "idct.h"

#include <algorithm>
#include <cstring>

#include "processor.h"

#if defined(AVX2)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace eighteen {
namespace {

// Eight columns at once, in the compiler's vectors: it makes of them what a processor has. Unsigned, so that they wrap.
using Words = uint16_t __attribute__((vector_size(16)));
using SignedWords = int16_t __attribute__((vector_size(16)));
using Longs = uint32_t __attribute__((vector_size(32)));
using SignedLongs = int32_t __attribute__((vector_size(32)));

constexpr int FRACTION = 13;  // bits of the constants below a unit
constexpr int PASS1 = 2;  // bits below a unit between the passes

constexpr int fixed(double value) { return static_cast<int>(value * (1 << FRACTION) + 0.5); }

INLINE Words load(const int16_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

INLINE Longs widened(const Words& words) {
  return (Longs)__builtin_convertvector((SignedWords)words, SignedLongs);
}

// In units of 2^shift.
INLINE SignedLongs rounded(const Longs& longs, int shift) { return (SignedLongs)(longs + (1u << (shift - 1))) >> shift; }

// In units of 2^shift, and saturated.
INLINE Words narrowed(const Longs& longs, int shift) {
  const SignedLongs value = rounded(longs, shift);
  const SignedLongs low = value < -32768 ? value * 0 - 32768 : value;
  const SignedLongs high = low > 32767 ? low * 0 + 32767 : low;
  return (Words)__builtin_convertvector(high, SignedWords);
}

INLINE void dequantize(const int16_t* block, const int16_t* quants, Words* rows) {
  for (int y = 0; y < 8; ++y) rows[y] = load(block + 8 * y) * load(quants + 8 * y);
}

// Where only the first row has coefficients, libjpeg-turbo's first pass takes a short cut that overflows otherwise.
INLINE bool is_first_alone(const int16_t* block, bool with_fifth) {
  Words others = {};
  for (int y = 1; y < 8; ++y)
    if (y != 4 || with_fifth) others |= load(block + 8 * y);
  uint64_t halves[2];
  std::memcpy(halves, &others, sizeof halves);
  return !(halves[0] | halves[1]);
}

INLINE void transpose(Words* rows) {
  Words a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = __builtin_shufflevector(rows[i], rows[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    a[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = __builtin_shufflevector(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    rows[2 * i] = __builtin_shufflevector(b[i], b[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    rows[2 * i + 1] = __builtin_shufflevector(b[i], b[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

// One dimension of eight columns (Loeffler, Ligtenberg and Moschytz 1989, with 12 multiplications).
INLINE void transform8(Words* rows, int shift) {
  const Longs in2 = widened(rows[2]), in6 = widened(rows[6]);
  const Longs middle = (in2 + in6) * fixed(0.541196100);
  const Longs even2 = middle - in6 * fixed(1.847759065), even3 = middle + in2 * fixed(0.765366865);
  const Longs even0 = widened(rows[0] + rows[4]) << FRACTION, even1 = widened(rows[0] - rows[4]) << FRACTION;
  const Longs sums[4] = {even0 + even3, even1 + even2, even1 - even2, even0 - even3};

  const Longs in1 = widened(rows[1]), in3 = widened(rows[3]), in5 = widened(rows[5]), in7 = widened(rows[7]);
  const Longs in73 = widened(rows[7] + rows[3]), in51 = widened(rows[5] + rows[1]);
  const Longs all = (in73 + in51) * fixed(1.175875602);
  const Longs z1 = (in7 + in1) * fixed(0.899976223), z2 = (in5 + in3) * fixed(2.562915447);
  const Longs z3 = all - in73 * fixed(1.961570560), z4 = all - in51 * fixed(0.390180644);
  const Longs odds[4] = {in1 * fixed(1.501321110) - z1 + z4, in3 * fixed(3.072711026) - z2 + z3,
                         in5 * fixed(2.053119869) - z2 + z4, in7 * fixed(0.298631336) - z1 + z3};
  for (int i = 0; i < 4; ++i) rows[i] = narrowed(sums[i] + odds[i], shift), rows[7 - i] = narrowed(sums[i] - odds[i], shift);
}

// To four samples; the fifth coefficient has no part in them.
INLINE void transform4(const Words* rows, Words* out, int shift) {
  const Longs even0 = widened(rows[0]) << (FRACTION + 1);
  const Longs even2 = widened(rows[2]) * fixed(1.847759065) - widened(rows[6]) * fixed(0.765366865);
  const Longs in1 = widened(rows[1]), in3 = widened(rows[3]), in5 = widened(rows[5]), in7 = widened(rows[7]);
  const Longs odd0 = in1 * fixed(1.061594337) - in3 * fixed(2.172734803) + in5 * fixed(1.451774981) - in7 * fixed(0.211164243);
  const Longs odd2 = in1 * fixed(2.562915447) + in3 * fixed(0.899976223) - in5 * fixed(0.601344887) - in7 * fixed(0.509795579);
  out[0] = narrowed(even0 + even2 + odd2, shift), out[3] = narrowed(even0 + even2 - odd2, shift);
  out[1] = narrowed(even0 - even2 + odd0, shift), out[2] = narrowed(even0 - even2 - odd0, shift);
}

uint8_t sample(int value) { return static_cast<uint8_t>(std::clamp(value + 128, 0, 255)); }

template <int SIZE>
INLINE void store(const Words& row, uint8_t* out) {
  const SignedWords value = (SignedWords)row;
  const SignedWords low = value < -128 ? value * 0 - 128 : value;
  const SignedWords high = low > 127 ? low * 0 + 127 : low;
  using Bytes = uint8_t __attribute__((vector_size(8)));
  const Bytes bytes = __builtin_convertvector((Words)high + 128, Bytes);
  std::memcpy(out, &bytes, SIZE);
}

INLINE void inverse8(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  Words rows[8];
  dequantize(block, quants, rows);
  if (is_first_alone(block, true)) {
    std::fill_n(rows + 1, 7, rows[0] <<= PASS1);
  } else {
    transform8(rows, FRACTION - PASS1);
  }
  transpose(rows);
  transform8(rows, FRACTION + PASS1 + 3);
  transpose(rows);
  for (int y = 0; y < 8; ++y) store<8>(rows[y], out + y * stride);
}

INLINE void inverse4(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  Words rows[8], half[8] = {};
  dequantize(block, quants, rows);
  if (is_first_alone(block, false)) {
    std::fill_n(half, 4, rows[0] << PASS1);
  } else {
    transform4(rows, half, FRACTION - PASS1 + 1);
  }
  transpose(half);
  Words columns[8] = {};
  transform4(half, columns, FRACTION + PASS1 + 3 + 1);
  transpose(columns);
  for (int y = 0; y < 4; ++y) store<4>(columns[y], out + y * stride);
}

// Of the first coefficient and the odd ones. Here libjpeg-turbo does not saturate the first one between the passes.
INLINE void inverse2(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  Words rows[8];
  dequantize(block, quants, rows);
  const Longs even = widened(rows[0]) << (FRACTION + 2);
  const Longs odd = widened(rows[1]) * fixed(3.624509785) - widened(rows[3]) * fixed(1.272758580) +
                    widened(rows[5]) * fixed(0.850430095) - widened(rows[7]) * fixed(0.720959822);
  for (const Longs& longs : {even + odd, even - odd}) {
    const SignedLongs half = rounded(longs, FRACTION - PASS1 + 2);
    const auto at = [&](int x) __attribute__((always_inline)) { return std::clamp(half[x], -32768, 32767); };
    const uint32_t first = static_cast<uint32_t>(half[0]) << (FRACTION + 2);
    const uint32_t others = at(1) * fixed(3.624509785) - at(3) * fixed(1.272758580) + at(5) * fixed(0.850430095) - at(7) * fixed(0.720959822);
    const auto descaled = [](uint32_t value) __attribute__((always_inline)) {
      constexpr int SHIFT = FRACTION + PASS1 + 3 + 2;
      return static_cast<int32_t>(value + (1u << (SHIFT - 1))) >> SHIFT;
    };
    out[0] = sample(descaled(first + others)), out[1] = sample(descaled(first - others));
    out += stride;
  }
}

void inverse8_portable(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  inverse8(block, quants, out, stride);
}
void inverse4_portable(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  inverse4(block, quants, out, stride);
}
void inverse2_portable(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  inverse2(block, quants, out, stride);
}

#if defined(AVX2)
#define INLINE_AVX2 inline __attribute__((target("avx2,bmi2"), always_inline))

// first * a + second * b of each column, as 32 bits.
struct Pairs {
  __m256i words;

  INLINE_AVX2 Pairs(__m128i first, __m128i second)
      : words(_mm256_set_m128i(_mm_unpackhi_epi16(first, second), _mm_unpacklo_epi16(first, second))) {}
  INLINE_AVX2 __m256i times(int32_t a, int32_t b) const {
    return _mm256_madd_epi16(words, _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(b) << 16 | (a & 0xFFFF))));
  }
};

// As transform8, two rows in each result: the first four of both, then the others.
template <int SHIFT>
INLINE_AVX2 void transform8_avx2(const __m128i* rows, __m256i* out) {
  const Pairs in26(rows[2], rows[6]), in71(rows[7], rows[1]), in53(rows[5], rows[3]);
  const Pairs in73_51(_mm_add_epi16(rows[7], rows[3]), _mm_add_epi16(rows[5], rows[1]));
  const __m256i even2 = in26.times(fixed(0.541196100), fixed(0.541196100) - fixed(1.847759065));
  const __m256i even3 = in26.times(fixed(0.541196100) + fixed(0.765366865), fixed(0.541196100));
  const __m256i half = _mm256_set1_epi32(1 << (SHIFT - 1));
  const auto scaled = [&](__m128i words) __attribute__((target("avx2,bmi2"), always_inline)) {
    return _mm256_add_epi32(_mm256_slli_epi32(_mm256_cvtepi16_epi32(words), FRACTION), half);
  };
  const __m256i even0 = scaled(_mm_add_epi16(rows[0], rows[4])), even1 = scaled(_mm_sub_epi16(rows[0], rows[4]));
  const __m256i sums[4] = {_mm256_add_epi32(even0, even3), _mm256_add_epi32(even1, even2), _mm256_sub_epi32(even1, even2),
                           _mm256_sub_epi32(even0, even3)};

  const __m256i z3 = in73_51.times(fixed(1.175875602) - fixed(1.961570560), fixed(1.175875602));
  const __m256i z4 = in73_51.times(fixed(1.175875602), fixed(1.175875602) - fixed(0.390180644));
  const __m256i odds[4] = {
      _mm256_add_epi32(in71.times(-fixed(0.899976223), fixed(1.501321110) - fixed(0.899976223)), z4),
      _mm256_add_epi32(in53.times(-fixed(2.562915447), fixed(3.072711026) - fixed(2.562915447)), z3),
      _mm256_add_epi32(in53.times(fixed(2.053119869) - fixed(2.562915447), -fixed(2.562915447)), z4),
      _mm256_add_epi32(in71.times(fixed(0.298631336) - fixed(0.899976223), -fixed(0.899976223)), z3)};
  __m256i longs[8];
  for (int i = 0; i < 4; ++i) {
    longs[i] = _mm256_srai_epi32(_mm256_add_epi32(sums[i], odds[i]), SHIFT);
    longs[7 - i] = _mm256_srai_epi32(_mm256_sub_epi32(sums[i], odds[i]), SHIFT);
  }
  for (int i = 0; i < 4; ++i) out[i] = _mm256_packs_epi32(longs[2 * i], longs[2 * i + 1]);
}

// Rows as transform8_avx2 leaves them.
INLINE_AVX2 void transpose_avx2(const __m256i* pairs, __m128i* rows) {
  __m256i quarters[4];  // rows 0 to 3 of two columns, of the other two, and rows 4 to 7
  for (int i = 0; i < 2; ++i) {
    const __m256i even = _mm256_unpacklo_epi16(pairs[2 * i], pairs[2 * i + 1]), odd = _mm256_unpackhi_epi16(pairs[2 * i], pairs[2 * i + 1]);
    quarters[2 * i] = _mm256_unpacklo_epi16(even, odd), quarters[2 * i + 1] = _mm256_unpackhi_epi16(even, odd);
  }
  const __m256i columns[4] = {_mm256_unpacklo_epi64(quarters[0], quarters[2]), _mm256_unpackhi_epi64(quarters[0], quarters[2]),
                              _mm256_unpacklo_epi64(quarters[1], quarters[3]), _mm256_unpackhi_epi64(quarters[1], quarters[3])};
  for (int i = 0; i < 4; ++i) rows[i] = _mm256_castsi256_si128(columns[i]), rows[i + 4] = _mm256_extracti128_si256(columns[i], 1);
}

AVX2 void inverse8_avx2(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  __m128i rows[8], others = _mm_setzero_si128();
  for (int y = 0; y < 8; ++y) {
    const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 8 * y));
    if (y) others = _mm_or_si128(others, row);
    rows[y] = _mm_mullo_epi16(row, _mm_loadu_si128(reinterpret_cast<const __m128i*>(quants + 8 * y)));
  }
  __m256i pairs[4];
  if (_mm_testz_si128(others, others)) {  // as is_first_alone has it
    const __m256i row = _mm256_castsi128_si256(_mm_slli_epi16(rows[0], PASS1));
    std::fill_n(pairs, 4, _mm256_permute4x64_epi64(row, 0x50));
  } else {
    transform8_avx2<FRACTION - PASS1>(rows, pairs);
  }
  transpose_avx2(pairs, rows);
  transform8_avx2<FRACTION + PASS1 + 3>(rows, pairs);
  // Columns of four bytes, next to each other: those of four rows to the left half, and the right half.
  const __m256i turn = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i left = _mm256_shuffle_epi8(_mm256_packs_epi16(pairs[0], pairs[1]), turn);
  const __m256i right = _mm256_shuffle_epi8(_mm256_packs_epi16(pairs[2], pairs[3]), turn);
  const __m256i centre = _mm256_set1_epi8(-128);
  const __m256i halves[2] = {_mm256_xor_si256(_mm256_unpacklo_epi32(left, right), centre),
                           _mm256_xor_si256(_mm256_unpackhi_epi32(left, right), centre)};
  for (int i = 0; i < 4; ++i) {  // two rows each
    const __m128i two = i < 2 ? _mm256_castsi256_si128(halves[i]) : _mm256_extracti128_si256(halves[i - 2], 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 2 * i * stride), two);
    _mm_storeh_pd(reinterpret_cast<double*>(out + (2 * i + 1) * stride), _mm_castsi128_pd(two));
  }
}
AVX2 void inverse4_avx2(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  inverse4(block, quants, out, stride);
}
AVX2 void inverse2_avx2(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride) {
  inverse2(block, quants, out, stride);
}
#endif

}  // namespace

InverseDct inverse_dct(int size) {
#if defined(AVX2)
  if (has_avx2()) return size == 8 ? inverse8_avx2 : size == 4 ? inverse4_avx2 : inverse2_avx2;
#endif
  return size == 8 ? inverse8_portable : size == 4 ? inverse4_portable : inverse2_portable;
}

void inverse_dct_flat(int size, int coefficient, int quant, uint8_t* out, ptrdiff_t stride) {
  const auto wrapped = [](int value, int bits) {
    return static_cast<int32_t>(static_cast<uint32_t>(value) << (32 - bits)) >> (32 - bits);
  };
  const int value = coefficient * quant;  // in eighths; wrapped as in libjpeg-turbo, which nothing real comes near to
  const int sum = size == 1 ? wrapped(value + 4, 13) : size == 2 ? wrapped(value + 4, 15) : wrapped(value, 14) + 4;
  const uint8_t flat = sample(sum >> 3);
  for (int y = 0; y < size; ++y) std::memset(out + y * stride, flat, static_cast<size_t>(size));
}

}  // namespace eighteen
