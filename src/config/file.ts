import { readFileSync, statSync } from 'node:fs'
import { type Document, parseDocument } from 'yaml'
import { MeshError } from '../core/errors.ts'
import type { PartialConfig } from './schema.ts'

/** @throws MeshError CONFIG_INVALID */
export function readConfigFile(path: string): PartialConfig {
  let text: string
  try {
    checkWriters(path)
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw cause instanceof MeshError ? cause : new MeshError('CONFIG_INVALID', { path }, { cause })
  }
  return parseConfig(text, path)
}

/** `path` is for the errors. @throws MeshError CONFIG_INVALID with the line and column of what YAML cannot read. */
export function parseConfig(text: string, path: string): PartialConfig {
  const document = parseDocument(text, { logLevel: 'error' })
  const [problem] = document.errors
  if (problem !== undefined)
    throw new MeshError('CONFIG_INVALID', {
      path,
      line: problem.linePos?.[0].line,
      problem: problem.message.split('\n')[0],
    })
  const content = contentOf(document, path)
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw new MeshError('CONFIG_INVALID', {
      path,
      reason: 'the file is not a mapping',
      remedy: 'Its top-level keys are root, cluster, relay, agent and log.',
    })
  return content
}

/** @throws MeshError CONFIG_INVALID when an alias has no anchor, or there are too many */
function contentOf(document: Document.Parsed, path: string): unknown {
  try {
    return document.toJS({ maxAliasCount: 20 }) ?? {}
  } catch (cause) {
    throw new MeshError('CONFIG_INVALID', { path, problem: (cause as Error).message }, { cause })
  }
}

/** Whoever may write the configuration decides what this process does. Pipes are the operator's own. @throws MeshError CONFIG_INVALID */
function checkWriters(path: string): void {
  const found = statSync(path)
  if (!found.isFile() || (found.mode & WRITABLE_BY_OTHERS) === 0) return
  throw new MeshError('CONFIG_INVALID', {
    path,
    reason: 'every user of this machine may change the file',
    remedy: `Remove that permission: chmod o-w ${path}`,
  })
}

const WRITABLE_BY_OTHERS = 0o002
