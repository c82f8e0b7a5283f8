-- Arithmetic, rounding and overflow of every numeric type.
SELECT 1::int2 + 1::int2, 2147483647 + 0, 9223372036854775807;
SELECT 32767::int2 + 1::int2;
SELECT 2147483647 + 1;
SELECT 9223372036854775807 + 1;
SELECT 1 / 0, 1 % 0;
SELECT round(2.5), round(-2.5), round(2.5::float8), trunc(1.999, 2), 10 / 3, 10 / 3.0, 10 % 3;
SELECT 'NaN'::float8, 'Infinity'::float8, '-Infinity'::numeric, 1e-400::numeric, '1e400'::float8;
SELECT 0.1::float4, 0.1::float8, 0.1::numeric, 0.1::float8 + 0.2::float8;
SET extra_float_digits = 0;
SELECT 0.1::float8 + 0.2::float8, 1 / 3::float8;
RESET extra_float_digits;
SELECT sqrt(2), power(2, 10), ln(10), log(100), exp(1), pi(), width_bucket(5.3, 0, 10, 5);
SELECT 0xff, 'abc'::int;
