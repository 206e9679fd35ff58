# The options as a page of Markdown, from their declarations.
lib: options:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    isAttrs
    isBool
    isList
    isString
    map
    match
    toJSON
    ;

  nix =
    value:
    if isAttrs value then
      if value == { } then
        "{ }"
      else
        "{ ${concatStringsSep " " (map (key: "${key} = ${nix value.${key}};") (attrNames value))} }"
    else if isList value then
      if value == [ ] then "[ ]" else "[ ${concatStringsSep " " (map nix value)} ]"
    else if isString value then
      toJSON value
    else if isBool value then
      (if value then "true" else "false")
    else if value == null then
      "null"
    else
      toString value;

  # {option}`x` and {manpage}`x` are of the NixOS manual.
  plain = builtins.replaceStrings [ "{option}" "{manpage}" ] [ "" "" ];
  trim =
    text:
    let
      found = match "(.*[^[:space:]])[[:space:]]*" text;
    in
    if found == null then text else builtins.head found;

  # The options of a submodule follow it.
  options' =
    prefix: options:
    builtins.concatMap (
      name:
      [ (option "${prefix}${name}" options.${name}) ]
      ++ lib.optionals (options.${name}.type ? getSubOptions) (
        options' "${prefix}${name}." (options.${name}.type.getSubOptions [ ])
      )
    ) (attrNames options);

  option =
    name: it:
    concatStringsSep "\n" (
      [
        "## `services.ci-docker-prune.${name}`"
        ""
        (trim (plain it.description))
        ""
        "- type: ${it.type.description}"
        "- default: ${if it ? defaultText then it.defaultText.text else "`${nix it.default}`"}"
      ]
      ++ lib.optional (it ? example) "- example: `${nix it.example}`"
      ++ [ "" ]
    );
in
assert isAttrs options;
concatStringsSep "\n" (
  [
    "# Module options"
    ""
    "Made from `modules/options.nix` by `tests/nix/run --update`; `tests/run` checks that it is up to date."
    ""
  ]
  ++ options' "" options
)
