import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { scriptOptions } from '../script-options.ts'
import { PAGES } from './pages.ts'

/** `npm run docs`: writes the generated pages of docs/ anew. */
scriptOptions({ name: 'npm run docs', about: 'Writes the pages of docs/ that come from the code.', options: {} })
for (const [path, page] of Object.entries(PAGES)) {
  writeFileSync(resolve(import.meta.dirname, '../..', path), await page())
  process.stdout.write(`${path}\n`)
}
