import { useEffect, useRef } from 'preact/hooks'
import { Icon } from './icon.tsx'

/** `/` leads to it from anywhere. */
export function Search({ label, value, change }: { label: string; value: string; change: (typed: string) => void }) {
  const field = useRef<HTMLInputElement>(null)
  useEffect(() => {
    const find = (event: KeyboardEvent) => {
      const { target } = event
      const isTyping = target instanceof HTMLElement && target.matches('input, textarea, select')
      if (event.key !== '/' || isTyping) return
      event.preventDefault()
      field.current?.focus()
    }
    addEventListener('keydown', find)
    return () => removeEventListener('keydown', find)
  }, [])
  return (
    <label class="search">
      <Icon name="search" />
      <input
        ref={field}
        type="search"
        placeholder={label}
        aria-label={label}
        value={value}
        spellcheck={false}
        onInput={({ currentTarget }) => change(currentTarget.value)}
      />
      <kbd aria-hidden="true">/</kbd>
    </label>
  )
}

interface ChipsProps<T extends string> {
  label: string
  chosen: T
  choose: (one: T) => void
  chips: readonly { value: T; text: string; count: number }[]
}

export function Chips<T extends string>({ label, chosen, choose, chips }: ChipsProps<T>) {
  return (
    <div class="chips" role="group" aria-label={label}>
      {chips.map(({ value, text, count }) => (
        <button key={value} type="button" aria-pressed={value === chosen} onClick={() => choose(value)}>
          {text} <span class="num">{count}</span>
        </button>
      ))}
    </div>
  )
}
