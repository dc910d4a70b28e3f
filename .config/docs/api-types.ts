import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { apiDocument, hashOfDocument } from './api.ts'

/*
 * Writes src/client/api-types.ts anew, from the document of the API: openapi-typescript does it. That needs another TypeScript than ours, so
 * that npx fetches both; a test says when the types are older than the document.
 */
const dir = mkdtempSync(join(tmpdir(), 'hedgerow-api-types-'))
try {
  const document = apiDocument()
  // one refusal is as the other: without them the types are a fifth as long
  for (const calls of Object.values(document.paths) as { responses: Record<string, unknown> }[][])
    for (const { responses } of Object.values(calls))
      for (const status of Object.keys(responses)) if (status >= '400') delete responses[status]
  writeFileSync(join(dir, 'api.json'), JSON.stringify(document))
  const tools = ['-y', '-p', 'openapi-typescript@7.13.0', '-p', 'typescript@5.9.3']
  execFileSync('npx', [...tools, 'openapi-typescript', 'api.json', '-o', 'api.ts'], { cwd: dir, stdio: 'inherit' })
  const types = readFileSync(join(dir, 'api.ts'), 'utf8').replace(/^\/\*\*[^]*?\*\/\n/, '')
  const head = `/* Written by .config/docs/api-types.ts from the document of the API. ${hashOfDocument()} */\n`
  writeFileSync(resolve(import.meta.dirname, '../../src/client/api-types.ts'), head + types)
} finally {
  rmSync(dir, { recursive: true, force: true })
}
