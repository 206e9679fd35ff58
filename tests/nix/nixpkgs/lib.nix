# The part of nixpkgs' lib that the flake and the module use, as far as they use it.
let
  inherit (builtins)
    all
    head
    isAttrs
    isBool
    isInt
    isList
    isPath
    isString
    listToAttrs
    map
    match
    stringLength
    substring
    ;

  type = name: check: {
    _type = "option-type";
    inherit check;
    description = name;
    # Definitions of the highest priority, merged.
    merge =
      where: definitions:
      if all (it: it == head definitions) definitions then
        head definitions
      else
        throw "The option `${where}' has conflicting definition values";
  };

  lib = rec {
    inherit (builtins)
      concatLists
      concatStringsSep
      elem
      filter
      length
      replaceStrings
      ;

    versionOlder = a: b: builtins.compareVersions a b < 0;
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    nameValuePair = name: value: { inherit name value; };
    genAttrs = names: of: listToAttrs (map (name: nameValuePair name (of name)) names);
    filterAttrs =
      keep: set:
      listToAttrs (
        map (name: nameValuePair name set.${name}) (filter (name: keep name set.${name}) (attrNames set))
      );
    mapAttrsToList = of: set: map (name: of name set.${name}) (attrNames set);
    inherit (builtins)
      any
      attrNames
      elemAt
      hasAttr
      head
      ;
    toList = it: if isList it then it else [ it ];
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    concatMapStringsSep =
      separator: of: values:
      concatStringsSep separator (map of values);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasInfix = part: text: length (splitString part text) > 1;
    splitString = separator: text: filter isString (builtins.split (escapeRegex separator) text);
    escapeRegex =
      let
        special = [
          "\\"
          "^"
          "$"
          "."
          "*"
          "+"
          "?"
          "("
          ")"
          "["
          "{"
          "|"
        ];
      in
      replaceStrings special (map (c: "\\" + c) special);
    # Quoted only where it must be.
    escapeShellArg =
      it:
      let
        text = toString it;
      in
      if builtins.match "[[:alnum:],._+:@%/-]+" text == null then
        "'${replaceStrings [ "'" ] [ "'\\''" ] text}'"
      else
        text;
    escapeShellArgs = concatMapStringsSep " " escapeShellArg;
    getExe = package: "${package}/bin/${package.meta.mainProgram}";
    licenses.mit = "mit";
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    fileset = {
      unions = paths: paths;
      toSource = { root, fileset }: { inherit root fileset; };
    };

    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkDefault = mkOverride 1000;
    literalMD = text: { inherit text; };
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      pkgs: name:
      {
        extraDescription ? "",
      }:
      mkOption {
        type = types.package;
        default = pkgs.${name};
        defaultText = "pkgs.${name}";
        description = "The ${name} package to use. ${extraDescription}";
      };

    types = {
      bool = type "boolean" isBool;
      str = type "string" isString;
      nonEmptyStr = type "non-empty string" (it: isString it && match "[[:space:]]*" it == null);
      singleLineStr = type "(optionally newline-terminated) single-line string" (
        it: isString it && match "[^\n]*\n?" it != null
      );
      enum =
        values: type "one of ${concatMapStringsSep ", " builtins.toJSON values}" (it: elem it values);
      either = a: b: type "${a.description} or ${b.description}" (it: a.check it || b.check it);
      strMatching =
        pattern:
        type "string matching the pattern ${pattern}" (it: isString it && match pattern it != null);
      path = type "absolute path" (it: isPath it || isString it && hasPrefix "/" it);
      package = type "package" (it: isAttrs it && it ? outPath);
      unspecified = types.raw;
      raw = type "raw value" (_: true);
      ints.unsigned = type "unsigned integer, meaning >=0" (it: isInt it && it >= 0);
      ints.between =
        low: high:
        type "integer between ${toString low} and ${toString high} (both inclusive)" (
          it: isInt it && low <= it && it <= high
        );
      nullOr =
        of:
        of
        // {
          description = "null or ${of.description}";
          check = it: it == null || of.check it;
          merge = where: values: if all (it: it == null) values then null else of.merge where values;
        };
      listOf =
        of:
        type "list of ${of.description}" (it: isList it && all of.check it)
        // {
          merge = _where: concatLists;
        };
      nonEmptyListOf =
        of:
        types.listOf of
        // {
          description = "non-empty (list of ${of.description})";
          check = it: isList it && it != [ ] && all of.check it;
        };
      # A module of its own below the option.
      submodule =
        module:
        type "submodule" isAttrs
        // {
          submodule = module;
          getSubOptions = _: (lib.evalModules { modules = [ module ]; }).options;
        };
      # Each attribute is of this type; definitions of different attributes come together.
      attrsOf =
        of:
        type "attribute set of (${of.description})" isAttrs
        // {
          attributes = of;
        };
      anything = type "anything" (_: true) // {
        merge =
          where: definitions:
          if all isList definitions then
            concatLists definitions
          else if all isAttrs definitions then
            builtins.mapAttrs (
              name: _:
              types.anything.merge "${where}.${name}" (
                map (it: it.${name}) (filter (it: it ? ${name}) definitions)
              )
            ) (builtins.foldl' (a: b: a // b) { } definitions)
          else
            types.raw.merge where definitions;
      };
      # A set with these keys and no others.
      keys =
        allowed:
        type "attribute set of known keys" (it: isAttrs it && all (key: elem key allowed) (attrNames it))
        // {
          attributes = types.anything;
        };
    };

    evalModules = import ./modules.nix lib;
  };
in
lib
