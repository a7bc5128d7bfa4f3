"""The page that the tests of PHP serve: work for PHP's extensions, which it opens as plug-ins, and facts about it.

What an installation lacks is left out, so that the facts are the same on every allocator of one machine.
"""
PAGE = r"""<?php
function arrays($n) {
    mt_srand(7);
    for ($i = 0; $i < 5 * $n; $i++)
        $rows["key" . $i * 7919 % 65537][] = str_repeat(chr(97 + $i % 26), mt_rand(1, 300));
    uasort($rows, fn($a, $b) => [count($a), $a] <=> [count($b), $b]);
    return [count($rows), md5(serialize($rows)), md5(json_encode(array_slice($rows, 0, 500)))];
}

function database($n) {
    $db = new PDO("sqlite::memory:", null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
    $db->exec("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, body BLOB)");
    $db->sqliteCreateFunction("twice", fn($text) => $text . $text, 1);
    $insert = $db->prepare("INSERT INTO item VALUES(?, ?, ?)");
    for ($i = 0; $i < $n; $i++)
        $insert->execute([$i, sprintf("%08x", $i * 2654435761 % 4294967296), str_repeat("x", $i % 500)]);
    return $db->query("SELECT substr(name, 1, 1) kind, count(*), sum(length(body)), min(twice(name)) FROM item
                       GROUP BY kind ORDER BY kind")->fetchAll(PDO::FETCH_NUM);
}

function texts($n) {
    $text = str_repeat("Füchse jagen «zwölf» Boxkämpfer, 東京 и Москва. ", $n);
    $found = preg_match_all('/(?<word>\p{L}{3,})[,. ]+(\d*)/u', $text);
    return [$found, md5(preg_replace_callback('/\pL+/u', fn($match) => strrev($match[0]), $text)),
            md5(iconv("UTF-8", "UTF-16LE", $text))];
}

function many_bytes($n) {
    $text = str_repeat("Füchse и Москва ", $n);
    return [mb_strlen($text), md5(mb_strtoupper($text)), md5(mb_convert_encoding($text, "UTF-32BE", "UTF-8"))];
}

function documents($n) {
    $dom = new DOMDocument();
    $root = $dom->appendChild($dom->createElement("root"));
    for ($i = 0; $i < $n; $i++)
        $root->appendChild($dom->createElement("item", "text $i"))->setAttribute("n", $i % 10);
    $path = new DOMXPath($dom);
    foreach (iterator_to_array($path->query("//item[@n='3']")) as $node)
        $root->removeChild($node);
    return [md5($dom->saveXML()), count(simplexml_load_string($dom->saveXML())->item)];
}

function packed($n) {
    $data = str_repeat(implode(",", range(1, 1000)), 20);
    return [md5(gzcompress($data)), hash("sha256", gzuncompress(gzcompress($data)))];
}

function session($n) {
    session_id("oneforall");
    session_start(["save_path" => __DIR__, "use_cookies" => 0, "cache_limiter" => ""]);
    $_SESSION["words"] = array_fill(0, $n, "word");
    session_write_close();
    return md5(file_get_contents(__DIR__ . "/sess_oneforall"));
}

$n = (int) ($_GET["n"] ?? $argv[1]);
$parts = ["arrays" => "json", "database" => "pdo_sqlite", "texts" => "iconv", "many_bytes" => "mbstring",
          "documents" => "simplexml", "packed" => "zlib", "session" => "session"];
$facts = [];
foreach ($parts as $part => $extension)
    $facts[$part] = extension_loaded($extension) ? $part($n) : "no $extension";
echo json_encode($facts), "\n";
"""
