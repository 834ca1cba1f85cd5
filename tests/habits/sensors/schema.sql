CREATE TABLE reading (
  sensor TEXT NOT NULL,
  taken_at TIMESTAMPTZ NOT NULL,
  celsius NUMERIC(5, 2) NOT NULL
);

CREATE TABLE daily (
  sensor TEXT NOT NULL,
  day DATE NOT NULL,
  readings INTEGER NOT NULL,
  mean NUMERIC(5, 2) NOT NULL
);
