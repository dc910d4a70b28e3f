import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import type { App } from '../link/link-server.ts'

/*
 * The page (src/page): files built ahead, the same for everybody, so they are served without credentials. What it shows it asks the
 * API for, with the token that somebody has typed into it.
 *
 *     /  /ui            to /ui/
 *     /ui/              index.html, asked for anew each time
 *     /ui/NAME-HASH.js  kept for ever: another content has another name
 */

/** A file as it is sent. */
export interface PageFile {
  type: string
  plain: Buffer
  gzip?: Buffer
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** Everything comes from here, nothing inline, in no frame; not told to other sites. */
export const PAGE_HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
} as const

const FOR_EVER = 'public, max-age=31536000, immutable'

/** `npm run build` and `npm run page` put them here. */
export const BUILT = join(import.meta.dirname, '../../page/built')

export const NOT_BUILT =
  'The page of this root has not been built. In a clone of hedgerow run `npm run page`, and load this page again.\n'

/** Outside the API's prefix. */
export function pageRoutes(app: App, folder: string = BUILT): void {
  const open = { config: { open: true } } as const
  let files: ReadonlyMap<string, PageFile> = new Map()
  /** Read once, when somebody first asks: a root that shows nobody a page keeps none in memory. */
  const fileNamed = (name: string) => {
    if (files.size === 0) files = readPage(folder)
    return files.get(name)
  }

  for (const path of ['/', '/ui']) app.get(path, open, (_request, reply) => reply.redirect('/ui/', 302))

  app.get<{ Params: { '*': string } }>('/ui/*', open, ({ params, headers }, reply) => {
    const name = params['*'] === '' ? 'index.html' : params['*']
    const file = fileNamed(name)
    void reply.headers(PAGE_HEADERS)
    if (file === undefined) {
      const isBuilt = files.size > 0
      const text = isBuilt ? `The page has no file ${name.slice(0, 100)}: load /ui/ again.\n` : NOT_BUILT
      return reply
        .code(isBuilt ? 404 : 503)
        .type('text/plain; charset=utf-8')
        .header('cache-control', 'no-store')
        .send(text)
    }
    const isPacked = file.gzip !== undefined && takesGzip(headers['accept-encoding'])
    if (isPacked) void reply.header('content-encoding', 'gzip')
    return reply
      .type(file.type)
      .header('vary', 'accept-encoding')
      .header('cache-control', name === 'index.html' ? 'no-cache' : FOR_EVER)
      .send(isPacked ? file.gzip : file.plain)
  })
}

/** None when it has not been built. */
export function readPage(folder: string): Map<string, PageFile> {
  const files = new Map<string, PageFile>()
  for (const name of namesIn(folder)) {
    const type = TYPES[extname(name)]
    if (type === undefined) continue
    const plain = readFileSync(join(folder, name))
    const packed = gzipOf(join(folder, `${name}.gz`))
    files.set(name, { type, plain, ...(packed === undefined ? {} : { gzip: packed }) })
  }
  return files
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function gzipOf(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch {
    return undefined
  }
}

/** RFC 9110 §12.5.3, as far as browsers write it: `gzip, deflate, br`, and `gzip;q=0` for no. */
export function takesGzip(accepted: string | string[] | undefined): boolean {
  const codings = String(accepted ?? '')
    .toLowerCase()
    .split(',')
    .map((coding) => coding.replaceAll(' ', ''))
  return codings.some((coding) => /^(gzip|\*)(;q=(1(\.0+)?|0?\.\d*[1-9]\d*))?$/.test(coding))
}
