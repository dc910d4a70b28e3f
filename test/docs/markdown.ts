import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

export const ROOT = resolve(import.meta.dirname, '../..')

export interface Block {
  /** Of the heading above it. */
  section: string
  syntax: string
  text: string
}

export function page(path: string): string {
  return readFileSync(resolve(ROOT, path), 'utf8')
}

/** The fenced code of a page, in its order. */
export function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = []
  let section = ''
  let open: Block | undefined
  for (const line of markdown.split('\n')) {
    if (open !== undefined) {
      if (line === '```') {
        blocks.push(open)
        open = undefined
      } else open.text += `${line}\n`
    } else if (line.startsWith('```')) open = { section, syntax: line.slice(3), text: '' }
    else if (/^#+ /.test(line)) section = line.replace(/^#+ /, '')
  }
  return blocks
}

/** Relative links, without anchors. */
export function linksOf(markdown: string): string[] {
  return [...markdown.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
    .map(([, to = '']) => to)
    .filter((to) => !/^[a-z]+:/.test(to))
}

/** Commands of a page, block by block, without their comments. */
export function commandsOf(path: string): string[][] {
  return blocksOf(page(path))
    .filter(({ syntax }) => syntax === 'sh')
    .map(({ text }) => text.split('\n').map((line) => line.replace(/ +#.*$/, '')))
    .map((lines) => lines.filter((line) => line !== ''))
}
