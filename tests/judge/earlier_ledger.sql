BEGIN TRANSACTION;
CREATE TABLE batches (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, keys TEXT NOT NULL, created TEXT NOT NULL
);
INSERT INTO "batches" VALUES('batch-7','gpt-4o-2024-11-20','mmhal','["k-1", "k-2"]','2026-11-29T10:12:04+00:00');
CREATE TABLE calls (
    key TEXT PRIMARY KEY, task TEXT NOT NULL, model TEXT NOT NULL, served TEXT NOT NULL, reply TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, latency REAL NOT NULL, attempts INTEGER NOT NULL,
    batch INTEGER NOT NULL, created TEXT NOT NULL
);
INSERT INTO "calls" VALUES('e349bce3aec393e1e0cdf86f1cb8ee306d17e64e43e85620c1c10fde2d193afd','mmhal','gpt-4o-2024-11-20','gpt-4o-2024-11-20','Rating: 4',100,20,0.00045,0.5,1,0,'2026-11-29T10:12:00+00:00');
INSERT INTO "calls" VALUES('14d60c6b0a26d86f64798ed930ead37512c36da88a05b0895206982cb8533b76','mmhal','gpt-4o-2024-11-20','gpt-4o-2024-11-20','<think>Rating: 1?</think>Rating: 5',NULL,NULL,NULL,0.5,1,0,'2026-11-29T10:12:01+00:00');
INSERT INTO "calls" VALUES('73ea40887990d93afa987bc5160dc76c60ebae22f0ed77d5870253cc81e46d07','mmhal','gpt-4o-2024-11-20','gpt-4o-2024-11-20','0.5',12,3,6.0e-05,0.5,1,1,'2026-11-29T10:12:02+00:00');
CREATE TABLE claims (
    key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, expires REAL NOT NULL
);
INSERT INTO "claims" VALUES('k-claimed','a-host',1,1764500000.0);
CREATE TABLE losses (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, reason TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, price REAL, created TEXT NOT NULL
);
INSERT INTO "losses" VALUES(1,'k-lost','mmhal','gpt-4o-2024-11-20','content filter',100,0,0.00025,'2026-11-29T10:12:03+00:00');
COMMIT;
