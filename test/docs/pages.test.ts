import { existsSync, readdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import t from 'tap'
import { linksOf, page, ROOT } from './markdown.ts'

const PAGES = ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md']
  .concat(readdirSync(resolve(ROOT, 'docs')).map((name) => `docs/${name}`))
  .filter((path) => path.endsWith('.md'))

t.test('every link between the documents leads somewhere', async (t) => {
  const dead = PAGES.flatMap((path) =>
    linksOf(page(path))
      .filter((to) => !existsSync(resolve(ROOT, join(dirname(path), to))))
      .map((to) => `${path} → ${to}`),
  )
  t.same(dead, [])
})

t.test('every page of docs/ is in its index', async (t) => {
  const listed = linksOf(page('docs/README.md'))
  t.same(
    PAGES.filter((path) => path.startsWith('docs/') && path !== 'docs/README.md' && !listed.includes(path.slice(5))),
    [],
  )
})

t.test('the rows of a table have as many cells as its head: a | inside code is escaped', async (t) => {
  const wrong: string[] = []
  for (const path of PAGES) {
    let cells = 0
    for (const [at, line] of page(path).split('\n').entries()) {
      const count = line.startsWith('|') ? line.replaceAll('\\|', '').split('|').length : 0
      if (cells > 0 && count > 0 && count !== cells) wrong.push(`${path}:${at + 1}`)
      cells = count
    }
  }
  t.same(wrong, [])
})

t.test('the security page has each rule, and the tests it names exist', async (t) => {
  const rows = page('docs/security.md')
    .split('\n')
    .filter((line) => /^\| SEC-\d+ \|/.test(line))
  t.same(
    rows.map((row) => Number(/SEC-(\d+)/.exec(row)?.[1])),
    Array.from({ length: 33 }, (_, at) => at + 1),
  )
  for (const row of rows) {
    const files = [...row.matchAll(/`((?:test|src|proxy)\/[^`]+)`/g)].map(([, path = '']) => path)
    t.ok(
      files.some((path) => path.startsWith('test/')),
      row.slice(0, 12),
    )
    for (const path of files) t.ok(existsSync(resolve(ROOT, path)), path)
  }
})
