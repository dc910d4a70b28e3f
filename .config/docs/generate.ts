import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { PAGES } from './pages.ts'

/** `npm run docs`: writes the generated pages of docs/ anew. */
for (const [path, page] of Object.entries(PAGES)) {
  writeFileSync(resolve(import.meta.dirname, '../..', path), await page())
  console.log(path)
}
