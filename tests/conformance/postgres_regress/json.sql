-- json and jsonb, paths, and what is no json.
SELECT '{"b": 1, "a": [1, null, "x"], "a": 2}'::json, '{"b": 1, "a": [1, null, "x"], "a": 2}'::jsonb;
SELECT '{"a": {"b": [10, 20]}}'::jsonb #> '{a,b,1}', '{"a": 1}'::jsonb ->> 'a', '{"a": 1}'::jsonb @> '{}', '[1, 2]'::jsonb - 0;
SELECT jsonb_set('{"a": 1}', '{b}', '"new"'), jsonb_pretty('{"a": [1, 2]}'), jsonb_path_query_array('[1, 5, 9]', '$[*] ? (@ > 2)');
SELECT * FROM jsonb_each_text('{"x": 1, "y": "two"}');
SELECT * FROM json_to_recordset('[{"a": 1, "b": "x"}, {"a": 2}]') AS t (a int, b text);
SELECT json_agg(row_to_json(r)) FROM (SELECT n, n * 2 AS double FROM generate_series(1, 2) n) r;
SELECT '{"a": }'::jsonb;
SELECT '"\u0000"'::jsonb;
