import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { blocksOf, page, ROOT } from './markdown.ts'

/** Every fenced block of these pages, by its first line: why no test types it, or which test reads it. */
const BLOCKS: Record<string, Record<string, string>> = {
  'docs/networking.md': {
    'ok   IPv4: 192.168.1.10; default route by eth0 via 192.168.1.1; private addresses': 'test/docs/networking.test.ts',
  },
  'docs/naming.md': { 'shop . acme . cart . prod . any . closest . local': 'not run: a drawing' },
  'docs/benchmarks.md': { 'npm run bench': 'test/docs/benchmarks.test.ts' },
  'docs/embedding.md': {},
  'CONTRIBUTING.md': {
    'git clone URL hedgerow && cd hedgerow': 'test/docs/contributing.test.ts',
  },
  'SECURITY.md': {},
}

t.test('every block of these pages is listed, with the test that reads it or why none runs it', async (t) => {
  for (const [path, listed] of Object.entries(BLOCKS)) {
    const found = blocksOf(page(path)).map(({ text }) => text.split('\n', 1)[0] ?? '')
    t.same(found, Object.keys(listed), path)
    for (const how of Object.values(listed)) t.ok(how.startsWith('not run: ') || existsSync(resolve(ROOT, how)), how)
  }
})

t.test('the files that the commands of these pages name exist', async (t) => {
  const commands = [...Object.keys(BLOCKS), 'docs/operations.md'].flatMap((path) =>
    blocksOf(page(path)).filter(({ syntax }) => syntax === 'sh'),
  )
  const files = commands.flatMap(({ text }) => [...text.matchAll(/(?<![\w/])(?:test|examples)\/[\w./-]+/g)])
  t.ok(files.length >= 3, `${files.length} files are named in commands`)
  for (const [file] of files) t.ok(existsSync(resolve(ROOT, file)), file)
})
