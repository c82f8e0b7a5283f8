-- Strings, quoting, Unicode, bytes.
SELECT 'it''s', E'tab\there', U&'\0441\043B\043E\043D', $tag$dollar $$ inside$tag$;
SELECT length('ä€😀'), octet_length('ä€😀'), upper('straße'), reverse('abc'), md5('x'), initcap('hello wORLD');
SELECT substring('foobar' FROM 2 FOR 3), position('b' IN 'foobar'), overlay('abcdef' PLACING '45' FROM 4), trim('  x ');
SELECT '\xdeadbeef'::bytea, encode('abc', 'base64'), decode('YWJj', 'base64'), get_byte('\x0102', 1);
SET bytea_output = escape;
SELECT '\x00ff41'::bytea;
RESET bytea_output;
SELECT regexp_replace('a1b22', '[0-9]+', '#', 'g'), regexp_match('key=value', '(\w+)=(\w+)'), 'abc' ~ '^a.c$', 'abc' LIKE 'a%';
SELECT 'a' || NULL, concat('a', NULL, 'b'), format('%s is %I and %L', 'x', 'Some Name', 'it''s');
SELECT repeat('ab', 5000) = repeat('ab', 5000), left(repeat('xyz', 100000), 7);
SELECT 'abc'::char(5) || '|', 'toolong'::varchar(3);
CREATE TEMP TABLE short (v varchar(3));
INSERT INTO short VALUES ('long');
SELECT convert_from('\xe4'::bytea, 'LATIN1'), convert_from('\xe4'::bytea, 'UTF8');
SELECT string_to_array('a,b,,c', ','), array_to_string(ARRAY['a', NULL, 'c'], '-', '?');
